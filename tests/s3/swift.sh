#!/usr/bin/env bash
# OpenStack Swift with its S3 door on loopback: a server that checks signatures, for tests only.
#
#   sudo tests/s3/swift.sh install       what is missing of Debian's packages (71 in all; needs root)
#   tests/s3/swift.sh run COMMAND ...    start Swift, run the command with RECTO_TEST_S3 and the
#                                        AWS_* credentials set, stop Swift; its status is the command's
#
# All state lies in a temporary folder that goes at the end. Why Swift: it is the only server in
# Debian's packages that speaks S3 and refuses forged and expired signatures; moto accepts them.
set -euo pipefail

PACKAGES="swift-proxy swift-account swift-container swift-object memcached"
ACCESS_KEY=test:tester
SECRET_KEY=testing
REGION=us-east-1

install() {
    # shellcheck disable=SC2086  # a list of words
    if dpkg -s $PACKAGES >/dev/null 2>&1; then return; fi
    # A machine for tests: no daemon of the packages is to start by itself.
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -qq -y --no-install-recommends $PACKAGES >/dev/null
}

free_ports() { # N: print N free ports of loopback
    python3 - "$1" <<'PY'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(each.getsockname()[1] for each in held))
PY
}

write_configs() { # FOLDER PROXY MEMCACHE ACCOUNT CONTAINER OBJECT: the folder and five ports
    local folder=$1 proxy=$2 memcache=$3 user
    local -A ports=([account]=$4 [container]=$5 [object]=$6)
    user=$(id -un)
    mkdir -p "$folder/devices/one" "$folder/cache"
    printf '[swift-hash]\nswift_hash_path_suffix = tests\nswift_hash_path_prefix = tests\n' \
        >"$folder/swift.conf"
    cat >"$folder/proxy.conf" <<CONF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $proxy
swift_dir = $folder
user = $user
workers = 0

[pipeline:main]
pipeline = catch_errors cache listing_formats s3api tempauth slo dlo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:$memcache

[filter:listing_formats]
use = egg:swift#listing_formats

[filter:s3api]
use = egg:swift#s3api
location = $REGION

[filter:tempauth]
use = egg:swift#tempauth
user_${ACCESS_KEY/:/_} = $SECRET_KEY .admin

[filter:slo]
use = egg:swift#slo

[filter:dlo]
use = egg:swift#dlo
CONF
    for service in account container object; do
        cat >"$folder/$service.conf" <<CONF
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = ${ports[$service]}
swift_dir = $folder
devices = $folder/devices
mount_check = false
user = $user
workers = 0
recon_cache_path = $folder/cache

[pipeline:main]
pipeline = $service-server

[app:$service-server]
use = egg:swift#$service
CONF
    done
    # One replica on one device each; in one process, since each start of Python takes its time.
    /usr/bin/python3 - "$folder" account="$4" container="$5" object="$6" <<'PY'
import sys
from swift.common.ring import RingBuilder

for pair in sys.argv[2:]:
    service, port = pair.split("=")
    builder = RingBuilder(part_power=1, replicas=1, min_part_hours=0)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port),
                     "device": "one", "weight": 1})
    builder.rebalance()
    builder.get_ring().save(f"{sys.argv[1]}/{service}.ring.gz")
PY
}

wait_for_port() { # PORT
    for _ in $(seq 150); do
        if (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return; fi
        sleep 0.1
    done
    echo "Swift did not answer on port $1" >&2
    return 1
}

run() {
    local folder ports status=0
    folder=$(mktemp -d)
    # shellcheck disable=SC2064  # the folder as it is now
    trap "stop_all '$folder'" EXIT
    read -r -a ports <<<"$(free_ports 5)"
    write_configs "$folder" "${ports[@]}"
    memcached -u "$(id -un)" -l 127.0.0.1 -p "${ports[1]}" -m 16 >"$folder/memcached.log" 2>&1 &
    echo $! >>"$folder/pids"
    for service in proxy account container object; do
        swift-$service-server "$folder/$service.conf" --verbose \
            >"$folder/$service.log" 2>&1 &
        echo $! >>"$folder/pids"
    done
    for port in "${ports[@]}"; do wait_for_port "$port" || { tail "$folder"/*.log; return 1; }; done
    RECTO_TEST_S3="s3://recto-tests?endpoint=http://127.0.0.1:${ports[0]}&region=$REGION" \
        AWS_ACCESS_KEY_ID=$ACCESS_KEY AWS_SECRET_ACCESS_KEY=$SECRET_KEY "$@" || status=$?
    if [ "$status" -ne 0 ]; then tail "$folder"/proxy.log >&2; fi
    return "$status"
}

stop_all() { # FOLDER
    while read -r pid; do kill "$pid" 2>/dev/null || true; done <"$1/pids"
    wait
    rm -rf "$1"
}

case "${1:-}" in
install) install ;;
run) shift && run "$@" ;;
*) sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//' >&2 && exit 2 ;;
esac
