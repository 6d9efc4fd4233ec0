"""Tasks: training, evaluation and calibration for classification and detection. Used by pipeline."""
