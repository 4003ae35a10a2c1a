#!/bin/bash
# The same workloads on mounts of one bucket: b2fs, rclone and s3fs, one after the other.
#
#     benchmarks/peers.sh FSBENCH ENDPOINT DIRECT_ENDPOINT RESULTS [NAME ...]
#
# FSBENCH is fsbench.py (see docs/benchmarks.md), ENDPOINT what the filesystems use (a latency proxy, say), DIRECT_ENDPOINT the
# server itself, RESULTS a directory for one text and one JSON file for each NAME.  Keys come from AWS_ACCESS_KEY_ID and
# AWS_SECRET_ACCESS_KEY; BIG_MIB (512), TAR and ONLY are handed on.  Needs root, or fusermount3, and the programs.
set -euo pipefail
fsbench=$1 endpoint=$2 direct=$3 results=$4
shift 4
[ $# -gt 0 ] || set -- b2fs rclone s3fs
mkdir --parents "$results"
password=$(mktemp)
trap 'rm -f "$password"' EXIT
printf '%s:%s\n' "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" >"$password"
chmod 600 "$password"
export RCLONE_S3_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID RCLONE_S3_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY

for name in "$@"; do
    case $name in
    b2fs)
        mount="b2fs mount -f s3://{bucket} {mountpoint} --endpoint {endpoint} --region us-east-1 --cache-dir {cache}"
        ;;
    rclone)
        mount="rclone mount :s3:{bucket} {mountpoint} --s3-provider Other --s3-endpoint {endpoint} --s3-force-path-style
            --vfs-cache-mode full --vfs-write-back 0s --transfers 16 --cache-dir {cache}"
        ;;
    s3fs)
        mount="s3fs {bucket} {mountpoint} -f -o url={endpoint},use_path_request_style,use_cache={cache},parallel_count=10
            -o multireq_max=20,passwd_file=$password"
        ;;
    *)
        echo "$name is none of b2fs, rclone, s3fs" >&2
        exit 2
        ;;
    esac
    python3 "$fsbench" --endpoint "$endpoint" --direct-endpoint "$direct" --mount-cmd "$mount" --name "$name" \
        --big-mib "${BIG_MIB:-512}" ${TAR:+--tar "$TAR"} ${ONLY:+--only "$ONLY"} \
        --json "$results/$name.json" --log "$results/$name.log" | tee "$results/$name.txt"
done
