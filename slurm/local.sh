#!/usr/bin/env bash
# A Slurm of one machine with several pretend nodes, for trying things out and for tests: no systemd, no cgroups, no
# database, and no accounting.
#
#   slurm/local.sh install    Debian's packages, with apt (needs root)
#   slurm/local.sh start      starts it, unless it runs; about a second
#   slurm/local.sh env        prints what a shell needs: eval "$(slurm/local.sh env)"
#   slurm/local.sh status     its nodes and jobs
#   slurm/local.sh stop       cancels its jobs and ends it
#   slurm/local.sh clean      the same, and removes all it has written
#
# Everything it writes lies in $SLURM_HOME. Settings, each with its default:
#   SLURM_HOME=${TMPDIR:-/tmp}/optbench-slurm   several at a time need a home and a port each
#   SLURM_LOCAL_PORT=16817                      of the controller; the nodes have those that follow
#   SLURM_LOCAL_NODES=2                         pretend nodes, called n1, n2, ...
#   SLURM_LOCAL_CPUS=4                          that each of them pretends to have
#   SLURM_LOCAL_MAX_ARRAY=1001                  MaxArraySize
set -euo pipefail

HOME_FOLDER=${SLURM_HOME:-${TMPDIR:-/tmp}/optbench-slurm}
HOME_FOLDER=${HOME_FOLDER%/}
PORT=${SLURM_LOCAL_PORT:-16817}
NODES=${SLURM_LOCAL_NODES:-2}
CPUS=${SLURM_LOCAL_CPUS:-4}
MAX_ARRAY=${SLURM_LOCAL_MAX_ARRAY:-1001}
START_SECONDS=30
export SLURM_CONF=$HOME_FOLDER/slurm.conf
PATH=$PATH:/usr/sbin:/sbin   # where the daemons are, which are on no user's PATH

say() { echo "slurm/local.sh: $*" >&2; }
fail() { say "$@"; exit 1; }

missing() {
  local program
  for program in munged slurmctld slurmd sbatch srun; do
    command -v "$program" >/dev/null || echo "$program"
  done
}

install_packages() {
  [ -n "$(missing)" ] || { say "already installed"; return; }
  command -v apt-get >/dev/null || fail "no apt-get here; install slurmctld, slurmd, the Slurm client and munge by hand"
  [ "$(id -u)" = 0 ] || fail "installing packages needs root: sudo slurm/local.sh install"
  export DEBIAN_FRONTEND=noninteractive
  local apt=(apt-get -q -o DPkg::Lock::Timeout=300)
  local packages=(slurmctld slurmd slurm-client munge)
  # Lists that are absent or old name packages that the mirror no longer has.
  "${apt[@]}" install -y --no-install-recommends "${packages[@]}" ||
    { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${packages[@]}"; }
}

# Whether the process of a pid file lives: no zombie, and a daemon of this home, for process ids are used again.
alive() {
  local pid
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && [ -r "/proc/$pid/cmdline" ] || return 1
  ! grep -q '^State:.*Z' "/proc/$pid/status" 2>/dev/null || return 1
  case "$(cat "/proc/$pid/comm" 2>/dev/null)" in munged | slurmctld | slurmd) ;; *) return 1 ;; esac
  tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF -e "$SLURM_CONF" -e "--pid-file=$HOME_FOLDER/munge/munged.pid"
}

pid_files() { ls "$HOME_FOLDER"/slurmd.*.pid "$HOME_FOLDER"/slurmctld.pid "$HOME_FOLDER"/munge/munged.pid 2>/dev/null || true; }

any_alive() {
  local file
  for file in $(pid_files); do
    if alive "$file"; then return 0; fi
  done
  return 1
}

write_conf() {
  local host node
  host=$(hostname -s)
  {
    # Job ids go on where no earlier instance has been, so that old logs and new ones do not mix.
    # cred_expire is how long a requeued job waits before it starts again; it has to be longer than KillWait.
    cat <<CONF
ClusterName=optbench
FirstJobId=$(($(date +%s) % 60000000 + 1))
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$HOME_FOLDER/munge/munge.sock,cred_expire=8
CredType=cred/munge
SlurmctldPort=$PORT
SlurmctldPidFile=$HOME_FOLDER/slurmctld.pid
SlurmdPidFile=$HOME_FOLDER/slurmd.%n.pid
SlurmctldLogFile=$HOME_FOLDER/slurmctld.log
SlurmdLogFile=$HOME_FOLDER/slurmd.%n.log
StateSaveLocation=$HOME_FOLDER/state
SlurmdSpoolDir=$HOME_FOLDER/spool.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=200000,bf_interval=1
MinJobAge=3600
KillWait=5
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=30
MaxArraySize=$MAX_ARRAY
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
CONF
    for node in $(seq 1 "$NODES"); do
      echo "NodeName=n$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((PORT + node)) CPUs=$CPUS RealMemory=64000"
    done
    echo "PartitionName=debug Nodes=n[1-$NODES] Default=YES MaxTime=INFINITE DefaultTime=10 State=UP"
  } >"$SLURM_CONF"
}

nodes_up() { timeout 3 sinfo -h -N -t idle,mixed,allocated -o %N 2>/dev/null | sort -u | wc -l; }

start() {
  [ -z "$(missing)" ] || fail "not installed ($(missing | xargs)); first: slurm/local.sh install"
  local socket=$HOME_FOLDER/munge/munge.sock
  [ ${#socket} -lt 100 ] || fail "SLURM_HOME=$HOME_FOLDER: too long a path for a socket; accepted: less than 85 letters"
  mkdir -p "$HOME_FOLDER"/{state,munge}
  chmod 755 "$HOME_FOLDER"
  chmod 711 "$HOME_FOLDER/munge"
  if ! any_alive; then
    # What an instance that was killed has left is in nobody's hands.
    rm -rf "$HOME_FOLDER"/state/* "$HOME_FOLDER"/spool.* "$HOME_FOLDER"/*.pid "$HOME_FOLDER"/munge/munge{d.pid,.sock*}
    write_conf
  fi
  [ -s "$HOME_FOLDER/munge/munge.key" ] ||
    (umask 077 && head -c 1024 /dev/urandom >"$HOME_FOLDER/munge/munge.key")
  alive "$HOME_FOLDER/munge/munged.pid" ||
    munged --force --key-file="$HOME_FOLDER/munge/munge.key" --socket="$socket" --num-threads=2 \
      --pid-file="$HOME_FOLDER/munge/munged.pid" --log-file="$HOME_FOLDER/munge/munged.log" \
      --seed-file="$HOME_FOLDER/munge/munge.seed" 2>>"$HOME_FOLDER/munge/start.log" ||
    fail "munged does not start: $(tail -n 2 "$HOME_FOLDER/munge/start.log")"
  alive "$HOME_FOLDER/slurmctld.pid" || slurmctld -i -f "$SLURM_CONF" >>"$HOME_FOLDER/start.log" 2>&1 || true
  local name
  for name in $(grep -o '^NodeName=[^ ]*' "$SLURM_CONF" | cut -d= -f2); do
    mkdir -p "$HOME_FOLDER/spool.$name"
    alive "$HOME_FOLDER/slurmd.$name.pid" || slurmd -f "$SLURM_CONF" -N "$name" >>"$HOME_FOLDER/start.log" 2>&1 || true
  done
  local end=$((SECONDS + START_SECONDS)) wanted
  wanted=$(grep -c '^NodeName=' "$SLURM_CONF")
  while [ "$SECONDS" -lt "$end" ]; do
    [ "$(nodes_up)" != "$wanted" ] || return 0
    sleep 0.1
  done
  grep -hE 'error|fatal' "$HOME_FOLDER"/start.log "$HOME_FOLDER"/slurm*.log 2>/dev/null | tail -n 5 >&2 || true
  fail "did not come up in $START_SECONDS s (port $PORT taken? SLURM_LOCAL_PORT chooses another); logs in $HOME_FOLDER"
}

stop() {
  local file pid
  if alive "$HOME_FOLDER/slurmctld.pid"; then
    timeout 10 scancel --user="$(id -un)" >/dev/null 2>&1 || true
    # Nobody would end their processes once the daemons are gone.
    for _ in $(seq 1 100); do
      [ -n "$(timeout 3 squeue -h -t running,completing 2>/dev/null)" ] || break
      sleep 0.1
    done
  fi
  for file in $(pid_files); do
    if alive "$file"; then
      pid=$(cat "$file")
      kill "$pid" 2>/dev/null || true
      for _ in $(seq 1 100); do
        alive "$file" || break
        sleep 0.1
      done
      ! alive "$file" || kill -9 "$pid" 2>/dev/null || true
    fi
    rm -f "$file"
  done
}

case "${1:-}" in
  install) install_packages ;;
  start) start ;;
  stop) stop ;;
  clean)
    stop
    # Only what looks like a home of this script.
    if [ -e "$SLURM_CONF" ]; then rm -rf "$HOME_FOLDER"; fi
    ;;
  status)
    any_alive || fail "not running"
    sinfo --Node --long
    squeue
    ;;
  env) echo "export SLURM_CONF='$SLURM_CONF'" ;;
  *)
    sed -n "2,/^set/{/^set/d;s/^# \{0,1\}//;p}" "$0" >&2
    exit 2
    ;;
esac
