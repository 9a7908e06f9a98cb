"""What every report of this project is made of: words in two languages, HTML, charts. The standard library is enough.

graft, runners, demo and bench import it; it imports none of them.
"""
