"""How far the student's hidden states have drifted from the teacher's, and what follows from it."""
