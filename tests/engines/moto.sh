#!/usr/bin/env bash
# Makes sure that there is a moto, an emulation of AWS that checks signatures: on the PATH, or in an environment of its
# own in the folder of the build.
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"

# The version the tests were written against.
WANTED='moto[server,ec2]==5.2.1'
folder=$target_dir/moto

if command -v moto_server >/dev/null || [ -x "$folder/bin/moto_server" ]; then exit 0; fi
say "installing $WANTED into $folder (about 320 MB): the tests sign requests for it"
rm -rf "$folder"
if ! { python3 -m venv "$folder" && "$folder/bin/pip" install --quiet "$WANTED"; }; then
    rm -rf "$folder"
    exit 1
fi
