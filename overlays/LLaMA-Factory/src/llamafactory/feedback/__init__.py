"""Feedback masking: no loss on what precedes the feedback token (see docs/methods/feedback.md)."""
