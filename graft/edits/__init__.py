"""The edit language: one small module a family of edits."""
