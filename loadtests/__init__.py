"""The same work through this proxy, or past it, and its peers: HAProxy, nginx, Envoy, and a naive relay.

    python -m loadtests                                              # all of it: about 20 minutes
    python -m loadtests --quick                                      # one short round
    python -m loadtests --scenarios 'kept-*,new' --relays 'proxyctl|HAProxy' --workers 1
    python -m loadtests --list                                       # what there is, and what is not installed
    python -m loadtests --report loadtests                           # the report again, of its results.json

Run it in the checkout. It installs nothing; what is missing is named and left out. A whole run writes results.json,
RESULTS.md and charts/ beside this file. Any other, and one that Ctrl-C ends, writes to --out, or to a new folder that
it names.

How it is put together: model.py has the words. relays.py knows who is measured, scenarios/ what they are made to do,
run.py in which order, affinity.py on which CPUs. results.py keeps what comes of it, ratios.py and targets.py judge it,
tables.py, charts.py and report.py show it. memory.py, http_memory.py and pages.py are programs of their own: what
connections cost at rest, and what open admin pages do.
"""
