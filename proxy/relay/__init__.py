"""The worker: accepts connections and moves their bytes. It knows endpoints and generations, not versions.

    __main__     the process: arguments, limits, trio
    worker       everything one worker has, and what control may ask of it
    link         the connection from control: requests in, answers out
    service      one service: its policy, its listeners, and the clients that wait
    acceptor     listeners, and when not to accept
    seeker       somebody who wants a connection to a backend
    client       one of them: a client that has no backend yet
    attempt      one attempt to connect to an endpoint
    connection   a client and its backend: two sides, and the bytes between them
    engine       the event loop that calls all of these
    generation   the connections, endpoints and counters of one generation
    timers       when to call what
    access_log   a line for each request
    http         what is different where HTTP/1 is understood

And what takes live connections from one worker to another:

    parcel       a connection on its way
    place        the endpoint and generation it belongs to, by name
    packing      what can be packed, and who packs and unpacks it
    channel      the socket between the two workers
    handover     giver and taker: who has what when, whatever dies

Bytes are moved by plain functions called from one epoll loop (`engine`); trio holds that loop and the signals. An await
for each read would cost more than everything else a relay does.
"""
