# The node's end of a push over SSH: one shell, alive as long as its connection, that obeys one line at a time.
#
# It is not installed anywhere; each connection brings it along. A command is a line that begins with $mark,
# a secret of this connection, so that stray bytes of a broken stage are never obeyed. An answer is a
# series of sections "\n$mark NAME\n…", the last one "\n$mark end CODE\n"; when CODE is not 0, the section
# before it says what was being done and why it failed. File descriptor 9 is the lock: the kernel gives it
# back when this shell ends, and the shell ends when its connection does.
#
# POSIX sh (dash, busybox). Values from outside arrive quoted, as "$1". Set before this text: mark, root, config.
# Folders are never chmod'ed: from a user outside the folder's group that silently drops setgid.

umask 027
LC_ALL=C
export LC_ALL
exec 2>&1
break='
'

section() { printf '\n%s %s\n' "$mark" "$1"; }

hello() {
  section hello
  for tool in flock sha256sum tar stat sync find head readlink; do
    command -v "$tool" >/dev/null || echo "$tool"
  done
}

# Enter the store, or say that it is not there. What does not change is asked once: every program that is
# started costs a millisecond, and more on a busy node.
enter() {
  section no-folder
  [ -d "$root" ] || return 1
  section enter
  cd "$root" || return 1
  group=${group:-$(stat -c %g "$config")} && owner=${owner:-$(stat -c %u .)} && me=${me:-$(id -u)}
}

# To Asterisk's group; and from root to the owner of the store, who may push next time.
hand_over() {
  if [ "$me" = 0 ]; then
    chown -R "$owner:$group" "$@"
  else
    find "$@" ! -group "$group" -exec chgrp "$group" {} + 2>/dev/null
  fi
  return 0 # what did not work is found by the check before the flip
}

# Remove what dead pushes left; whoever holds the lock may, for nobody alive owns a stage.
sweep() {
  for leftover in .stage-*; do
    if [ -e "$leftover" ] || [ -L "$leftover" ]; then
      rm -rf .stage-*
      return
    fi
  done
}

# The current release, when the link leads to one: releases/NAME and a folder of that name.
current() {
  name=$(readlink current) || return 1
  case ${name#releases/} in "$name" | '' | */* | .* | drift-*) return 1 ;; esac
  [ -d "$name" ] && [ ! -L "$name" ] && printf '%s' "$name"
}

observe() {
  if [ ! -d "$root" ]; then return 0; fi
  enter || return 1
  if [ -L current ]; then
    section link
    readlink current
  elif [ -e current ]; then
    section link
  fi
  section revisions
  revisions
  release=$(current) || return 0
  if [ -f "$release/manifest.json" ] && [ ! -L "$release/manifest.json" ]; then
    section manifest
    cat "$release/manifest.json"
  fi
  section group
  echo "$group"
  # What cannot be read has no sum and is drift; it does not make the look a failure.
  section sums
  (cd "$release" && find . -type f ! -path ./manifest.json -exec sha256sum {} +)
  section stats
  (cd "$release" && find . ! -name "*$break*" -exec stat -c '%f %g %s %n' {} +)
  return 0
}

revisions() {
  for manifest in releases/*/manifest.json; do
    [ -f "$manifest" ] || continue
    manifest=${manifest#releases/}
    echo "${manifest%/manifest.json}"
  done
}

# $1 who takes it, $2 seconds after which a lease without a sign of life is dead
lock() {
  enter || return 1
  section lock
  true >>.lock || return 1 # tried apart, and not with `:`: when a special builtin cannot redirect, sh ends
  exec 9>>.lock
  if ! flock -n 9; then
    exec 9>&-
    section locked
    cat .lock
    return 1
  fi
  # First our name, then a look for a lease; who takes a lease does it the other way round, so that
  # of two who come at the same instant one sees the other.
  held=yes
  hand_over .lock
  printf '%s\n' "$1" >.lock
  if [ -e .lease ]; then
    if [ $(($(date +%s) - $(stat -c %Y .lease))) -lt "$2" ]; then
      unlock
      section locked
      cat .lease
      return 1
    fi
    rm -f .lease
  fi
  observe
}

beat() { touch -c "$root/.lock"; }

unlock() {
  [ -n "$held" ] || return 0
  true >.lock
  exec 9>&-
  held=
}

# $1 revision, $2 bytes of the stream, $3 files in it, $4 bytes wanted free, $5 gzip or cat, then its folders
push() {
  enter || return 1
  stage=.stage-$1-$$
  before=$(readlink current)
  # What is left of the stream is read away, whatever fails: the next line must be a command again.
  head -c "$2" | {
    receive "$@"
    code=$?
    cat >/dev/null
    exit "$code"
  }
  code=$?
  sweep
  return "$code"
}

receive() {
  revision=$1 count=$3 wanted=$4 unpack=$5
  shift 5
  section already-current
  [ "$before" != "releases/$revision" ] || return 1
  section stage
  sweep || return 1
  # shellcheck disable=SC2046
  room $(stat -f -c '%a %S %c %d' .) || return 1
  section stage
  mkdir "$stage" || return 1
  if [ $# -gt 0 ]; then (cd "$stage" && mkdir -p "$@") || return 1; fi
  case $unpack in
  gzip) gzip -dc | tar -x -o -f - -C "$stage" || return 1 ;;
  *) tar -x -o -f - -C "$stage" || return 1 ;;
  esac
  hand_over "$stage"
  if [ ! -d releases ]; then mkdir releases && hand_over releases || return 1; fi
  check || return 1
  section sync
  # One syncfs: 7 to 20 ms for 100 files where 100 fsyncs took 50 to 700 (measured on a busy ext4).
  sync -f "$stage" 2>/dev/null || find "$stage" -exec sync {} + || return 1
  section place
  if [ -e "releases/$revision" ]; then mv "releases/$revision" ".stage-old-$revision" || return 1; fi
  mv "$stage" "releases/$revision" && sync releases && {
    section flip
    point "releases/$revision" "$before"
  } && return 0
  withdraw "$revision"
  return 1
}

# $1 free blocks, $2 their size, $3 inodes in all (0 where there is no such limit), $4 free inodes
room() {
  section disk-full
  echo "$(($1 * $2))"
  [ "$(($1 * $2))" -ge "$wanted" ] || return 1
  [ "$3" -eq 0 ] || [ "$4" -gt "$((2 * count))" ]
}

# What lies on the disk is what was sent, no more and no less, and Asterisk may read it.
check() {
  section not-as-sent
  right=$(cd "$stage" && sha256sum -c .sums 2>/dev/null | grep -c ': OK$')
  found=$(find "$stage" ! -type d ! -name .sums | wc -l)
  if [ "$right" -ne "$count" ] || [ "$found" -ne "$count" ]; then
    (cd "$stage" && sha256sum -c .sums 2>/dev/null | grep -v ': OK$')
    echo "($found files, $right of $count right)"
    return 1
  fi
  rm "$stage/.sums" || return 1
  section unreadable
  wrong=$(
    find "$stage" \( -type d ! \( -group "$group" -perm -050 \) \) \
      -o \( ! -type d ! \( -group "$group" -perm 640 \) \)
    find "$config" . releases -prune ! \( -group "$group" -perm -010 \) ! -perm -001
  )
  [ -z "$wrong" ] || {
    echo "$wrong"
    return 1
  }
}

# The flip: one rename of the link to $1; when the disk does not take it, the one to $2 comes back.
point() {
  relink "$1" || return 1
  sync . && return 0
  relink "$2"
  return 1
}

relink() {
  if [ -n "$1" ]; then
    ln -sfn "$1" .stage-link && mv -fT .stage-link current
  else
    rm -f current
  fi
}

# Remove a release that was not to become current after all; never the one that is.
withdraw() {
  [ "$(readlink current)" = "releases/$1" ] && return 0
  mv "releases/$1" ".stage-gone-$1" 2>/dev/null
  sweep
}

# A push that was cancelled although it succeeded: $1 its revision
undo() {
  section undo
  relink "$before" && sync . && withdraw "$1"
}

flip() {
  section no-release
  [ -f "releases/$1/manifest.json" ] || return 1
  section flip
  point "releases/$1" "$(readlink current)"
}

# $1 the audit line, then releases to drop, --, then pairs: old name, new name. Ends the lock.
record() {
  line=$1
  shift
  section stays
  kept=$(readlink current)
  for name; do
    [ "releases/$name" != "$kept" ] || {
      echo "$name"
      return 1
    }
  done
  section history
  [ -e audit.jsonl ] || { true >audit.jsonl && hand_over audit.jsonl; } || return 1
  if [ -n "$(tail -c 1 audit.jsonl)" ]; then echo >>audit.jsonl || return 1; fi
  printf '%s\n' "$line" >>audit.jsonl && sync audit.jsonl || return 1
  section tidy
  while [ "$1" != -- ]; do
    [ ! -d "releases/$1" ] || mv -T "releases/$1" ".stage-drop-$1" || return 1
    shift
  done
  shift
  while [ $# -gt 1 ]; do
    [ ! -d "releases/$1" ] || mv -T "releases/$1" "releases/$2" || return 1
    shift 2
  done
  sweep && unlock
}

# $1 a release or nothing for the current one, then paths; a link anywhere on the way is not followed.
fetch() {
  [ -d "$root" ] || return 0
  enter || return 1
  release=${1:+releases/$1}
  release=${release:-$(current)} || return 0
  [ -n "$release" ] || return 0
  here=$(pwd -P)
  shift
  number=0
  for path; do
    if [ -f "$release/$path" ] && [ "$(readlink -f "$release/$path")" = "$here/$release/$path" ]; then
      section "file-$number"
      cat "$release/$path" || return 1
    fi
    number=$((number + 1))
  done
}

list_revisions() {
  [ -d "$root" ] || return 0
  enter || return 1
  section revisions
  revisions
}

history() {
  [ -e "$root/audit.jsonl" ] || return 0
  section history
  cat "$root/audit.jsonl"
}

read_config() {
  [ -e "$config/$1" ] || return 0
  section config
  cat "$config/$1"
}

# $1 name, $2 bytes of its new content; a link is followed, and stays
write_config() {
  section config
  path=$(readlink -f "$config/$1") || path=$config/$1
  fresh=${path%/*}/.$1.voxtractl-$$
  head -c "$2" | {
    replace "$2"
    code=$?
    cat >/dev/null
    exit "$code"
  } && return 0
  rm -f "$fresh"
  return 1
}

replace() {
  cat >"$fresh" || return 1
  [ "$(wc -c <"$fresh")" -eq "$1" ] || return 1
  if [ -e "$path" ]; then
    chown "$(stat -c %u:%g "$path")" "$fresh" && chmod "$(stat -c %a "$path")" "$fresh" || return 1
  else
    chgrp "$(stat -c %g "$config")" "$fresh" && chmod 640 "$fresh" || return 1
  fi
  sync "$fresh" && mv -fT "$fresh" "$path" && sync "${path%/*}"
}

prepare() {
  section prepare
  [ -d "$root" ] && return 0
  mkdir "$root" && chgrp "$(stat -c %g "$config")" "$root" && chmod 2750 "$root" && sync "${root%/*}"
}

facts() {
  section clock
  date +%s
  section who
  id -u
  id -G
  if [ -d "$config" ]; then
    section group
    stat -c '%g %G' "$config"
  fi
  if [ -d "$root" ]; then
    section folder
    stat -c '%f %g' "$root"
    section free
    stat -f -c '%a %S' "$root"
    for folder in "$root" "$root/releases"; do
      if [ -d "$folder" ] && ! { [ -w "$folder" ] && [ -x "$folder" ]; }; then
        section closed
        echo "$folder"
        break
      fi
    done
  fi
}

held=
hello
printf '\n%s end 0\n' "$mark"
while IFS= read -r line; do
  case $line in
  "$mark "*)
    eval "${line#"$mark "}"
    printf '\n%s end %s\n' "$mark" "$?"
    ;;
  esac
done
