"""Give an nginx its port, for which it has no option, and become it.

    python -IS become_nginx.py NGINX TEMPLATE FOLDER PORT

The configuration is the template's, with FOLDER, which is made, and PORT in the place of their placeholders. It imports
next to nothing, and not pathlib: it runs in the middle of a swap that is measured.
"""

import os
import sys

FOLDER = "@folder@"
PORT = "@port@"


def main(nginx: str, template: str, folder: str, port: str) -> None:
    os.makedirs(folder, exist_ok=True)
    config = f"{folder}/nginx.conf"
    with open(template) as source, open(config, "w") as target:
        target.write(source.read().replace(FOLDER, folder).replace(PORT, port))
    os.execv(nginx, [nginx, "-e", "stderr", "-p", folder, "-c", config])


if __name__ == "__main__":
    main(*sys.argv[1:])
