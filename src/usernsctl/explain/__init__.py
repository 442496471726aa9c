"""The catalogue of causes of failures, and explanations of error messages."""
