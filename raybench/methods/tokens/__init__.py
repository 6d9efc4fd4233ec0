"""The built-in token reducers. One file a method."""
