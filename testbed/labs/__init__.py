"""Labs: a question, a starter that fails, a check with hints, and a report to hand in."""
