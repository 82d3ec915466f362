"""The exercises of the course, done with flyweight; each module prints and writes its tables."""
