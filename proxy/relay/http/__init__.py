"""HTTP/1 between clients and backends: see `client.py` for what a client goes through.

client_socket.py    what a client is sent, and how long it may be silent
exchange.py         the present request, and what is counted and written down of it
client.py           requests, one at a time, and where they go
upstream.py         a connection to a backend, and the responses that come on it
search.py           the way to a backend that is not to be had at once
tunnel.py           the end of HTTP, when bytes are to be relayed as they are
"""
