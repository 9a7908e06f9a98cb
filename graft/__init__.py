"""The engine: knows git, source trees and syntax; knows no method and no upstream by name."""
