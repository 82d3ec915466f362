"""Speed and size against peers; each module is one command that writes one table."""
