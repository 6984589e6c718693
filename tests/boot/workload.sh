#!/bin/busybox sh
# usage: busybox sh workload.sh BUSYBOX PROGRAM
#
# The same work in a guest and on the host; what it prints must be the same. Hashes and compressors of busybox over the two
# programs, many short processes, and the work of PROGRAM (workload.c).
busybox=$1 program=$2

digest() {
    "$busybox" "$1" | "$busybox" cut -d ' ' -f 1
}
for kind in md5sum sha1sum sha256sum sha512sum sha3sum; do
    echo "$kind $("$busybox" cat "$busybox" "$program" | digest $kind)"
done
for packer in gzip bzip2; do
    echo "$packer $("$busybox" $packer -c <"$busybox" | digest sha256sum)"
    echo "$packer and back $("$busybox" $packer -c <"$program" | "$busybox" $packer -d -c | digest sha256sum)"
done
i=0 sum=0
while [ $i -lt 200 ]; do
    sum=$((sum + $("$busybox" expr $i + 1)))
    i=$((i + 1))
done
echo "processes $sum"
echo "sort $("$busybox" seq 1 5000 | "$busybox" sort -r | digest sha256sum)"
echo "awk $("$busybox" awk 'BEGIN { for (i = 1; i < 20000; i++) s += (i % 7) / i; printf "%.15g\n", s }')"
"$program"
