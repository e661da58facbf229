"""The field's tables: submissions, methods side by side."""
