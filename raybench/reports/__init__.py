"""Reports on a store: leaderboards, comparison with published figures, SQL, one cell as text. For cli and notebooks."""
