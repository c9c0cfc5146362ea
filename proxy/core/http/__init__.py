"""HTTP/1 as pure functions of bytes: where messages begin and end, what is changed in them, and answers of our own."""
