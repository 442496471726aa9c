"""The catalogue of causes of failures, and the explanation of error messages."""
