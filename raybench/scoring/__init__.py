"""From a criterion to one score for each unit of each group. Imported by selection, pipeline and testing."""
