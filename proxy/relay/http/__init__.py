"""HTTP/1 between clients and backends: see `client.py` for what a client goes through.

What is where:

    stream.py           what both sockets have in common: what does not fit is kept
    client_socket.py    a client's socket: what it is sent, and how long it may be silent
    reader.py           what a client sends, cut into requests
    exchange.py         the present request, and what is counted and written down of it
    client.py           requests, one at a time, and where they go
    upstream.py         a connection to a backend, and the responses that come on it
    search.py           the way to a backend that is not to be had at once
    parcel.py           the way from one worker to another
    tunnel.py           the end of HTTP, when bytes are to be relayed as they are
"""
