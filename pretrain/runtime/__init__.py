"""What a long run needs, said once for the whole project. Importing it imports no torch."""
