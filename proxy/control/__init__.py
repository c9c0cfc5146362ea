"""The control process. Begin with `app`, which puts everything together; then one of these stories.

A service and its versions:

    service      a service: its listeners, its generations, and the one switch
    generation   one start of one version, its replicas kept running and checked
    catalog      the versions that can be started
    decision     what the file said about `active` when it was last decided
    listeners    the public sockets; sockopts, what is set on them

A swap, from its request to the history:

    operations   which may begin when
    operation    one of them: its phases, its result
    swap         the swap from start to end, and rollback, bake and going back
    drain        how a generation leaves
    previous     what a rollback goes back to
    history      what happened

A backend's process:

    backend      started, watched, and stopped with everything that came out of it
    launch, recipe, ports, sockets, output    what it is started with
    family, mark, record, process, reaper, exits    which processes are whose, and how they ended
    prober, check, command_check, ownership    whether it is healthy, and really ours
    external     an address that runs elsewhere

The workers:

    workers      all of them as one: told what to do, replaced when they die
    worker       one process, started or found
    link         the connection to it
    relief       a worker takes the place of another, with its connections
    traffic, sums    what they counted
    shared_lock  what keeps a switch from happening amid that

Connections that no worker relays:

    steering     the kernel hands them to the active backend's own socket
    steered      one generation that it does that for, and what that has open
    steerable    which sockets those are, and why it cannot be done where it cannot
    steer_table  what the kernel is told
    inheriting   backends accept on the public listener themselves: how one gives way to the next
    heritage, handing    what a backend is given then, and how it is started with it
    readiness, notify_socket    how it says that it is ready
    held         what it has of the public sockets
    open_connections    what a generation still has open, whichever way it came

What outlives this process, and is taken over by the next one:

    state, state_file    what is remembered, and its file
    running      what runs already when this process starts
    adoption     what becomes of it
    counters     the file of what was counted
    inherited, packed, activation    sockets that were open before: of the workers, over an exec, of systemd
    upgrade      this process becomes the new code
    rehearsal    what the new code does before it is let near anything
    ending       whether what runs is to end with this process

The rest: `reload`, `events`, `sample` (for the metrics), `notify` (the service manager), `lock`, `files`, `disk`,
`trouble`, `clock`, and `deps`, what all of them share.
"""
