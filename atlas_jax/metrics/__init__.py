"""How good an answer or a retrieval is: plain Python over strings and numbers."""
