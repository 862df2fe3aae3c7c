#!/bin/sh
# Runs a command behind each of these networks, and says which ones it did not survive.
#     test-behind-faults.sh ./test.sh
set -u
failed=0
while IFS='|' read -r name faults; do
    if faultwire exec --both "$faults" --seed 1 -- "$@"; then
        echo "ok      $name"
    else
        echo "FAILED  $name: faultwire exec --both '$faults' --seed 1 -- $*"
        failed=1
    fi
done <<'END'
far|delay 100ms
lossy|delay 20ms loss 2%
thin|rate 1mbit queue 100ms
small packets|mtu 1400 icmp
END
exit $failed
