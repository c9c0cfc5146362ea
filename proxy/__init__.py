"""A zero-downtime front proxy for any TCP service.

The *control* process reads the config, runs the backends, checks their health and performs swaps. *Workers* accept
connections and relay bytes; they know endpoints and generations, not versions. `proxyctl` (the *cli*) talks to control
over HTTP on a Unix socket (the *api*).

Who may import whom (`tests/test_imports.py` checks it); `errors` and `logs` are for everyone:

    core, kernel    nothing else of ours
    wire            core
    config          core
    relay           core, kernel, wire
    metrics         core, wire
    control         everything but api and cli
    api             what it declares in api/protocol.py, core, config, kernel; `proxy.main` hands it a control
    cli             config, core, kernel, never control or relay: it starts them as programs
    main            joins control and api into the program that `proxyctl run` becomes
"""

__version__ = "0.1.0"
