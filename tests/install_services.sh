#!/bin/sh
# Installs what the tests use and the machine lacks: on Debian or Ubuntu, as root. Anywhere else it only says what is missing.
set -eu
missing=""
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || ls /usr/lib/postgresql/*/bin/"$1" >/dev/null 2>&1 || missing="$missing $2"; }
if [ "$#" -gt 0 ]; then
    missing="$*"
else
    need storescu dcmtk
    need Orthanc orthanc
    [ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || missing="$missing orthanc-dicomweb"
    [ -e /usr/share/orthanc/plugins/libOrthancPython.so ] || missing="$missing orthanc-python"
    need dciodvfy dicom3tools
    need redis-server redis-server
    need chromium chromium
    need npm npm
    need initdb postgresql
    need rsyslogd rsyslog
    ls /usr/lib/*/rsyslog/lmnsd_ossl.so >/dev/null 2>&1 || missing="$missing rsyslog-openssl"
fi
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "not installed (tests that need them are skipped):$missing" >&2
    exit 0
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get update -qq >/dev/null
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
