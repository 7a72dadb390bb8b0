"""The container's init: a shell script that carries out one order after the other (pure text).

Orders come through the pipe ``orders/in`` and are answered, one line each, through ``orders/out``:
``ok RESULT`` or ``failed WHAT THE TOOL SAID``. Both are in a folder of the host that is bound into
the container, off the device.
"""

from __future__ import annotations

__all__ = ["FAILED", "OK", "PIPE_IN", "PIPE_OUT", "REPOSITORY", "SCRIPT"]

PIPE_IN, PIPE_OUT = "in", "out"
OK, FAILED = "ok", "failed"
REPOSITORY = "srv/repository"  # in the rootfs

SCRIPT = r"""
set -u
trap 'exit 0' TERM
export HOME=/ GIT_CONFIG_GLOBAL=/etc/gitconfig GIT_CONFIG_NOSYSTEM=1
said=/orders/said
mkdir -p /srv/repository && cd /srv/repository || exit 1
exec 3<>/orders/in 4<>/orders/out

answer() { # status, result: one line; by what is built in alone, for the disk may be gone
  if [ "$1" = 0 ]; then echo "ok $2" >&4; return; fi
  text=; while IFS= read -r line; do text="$text$line "; done <$said
  echo "failed ${text:0:800}" >&4
}

makefile() {
  printf 'objects := $(patsubst %%.c,%%.o,$(wildcard *.c))\n'
  printf 'prog: $(objects)\n\ttcc -o $@ $(objects)\n%%.o: %%.c\n\ttcc -c -o $@ $<\n'
}

while read -r order a b c <&3; do
  case $order in
    create)
      { git init -q . && makefile >Makefile && printf '*.o\nprog\n' >.gitignore &&
        git add . && git commit -q -m start; } >$said 2>&1
      answer $? "$(git rev-parse HEAD 2>>$said)" ;;
    write) # a name, what it returns, how many lines of ballast
      { awk -v name="$a" -v value="$b" -v lines="$c" 'BEGIN {
          for (i = 0; i < lines; i++) print "/* " value * 7919 + i " */"
          print "int " name "(void) { return " value "; }" }' >"$a.c" && sync "$a.c"; } 2>$said
      answer $? "$a" ;;
    main) # how many modules
      { awk -v count="$a" 'BEGIN {
          print "#include <stdio.h>"
          for (i = 0; i < count; i++) print "int m" i "(void);"
          print "int main(void) { long sum = 0;"
          for (i = 0; i < count; i++) print "  sum += m" i "();"
          print "  printf(\"%ld\\n\", sum); return 0; }" }' >main.c; } 2>$said
      answer $? main ;;
    commit)
      { git add . && git commit -q --allow-empty -m "$a"; } >$said 2>&1
      answer $? "$(git rev-parse HEAD 2>>$said)" ;;
    build)
      { make -s prog; } >$said 2>&1 && result=$(./prog 2>>$said)
      answer $? "${result-}" ;;
    clean) rm -f ./*.o prog 2>$said; answer $? "" ;;
    gc) git gc -q --prune=now >$said 2>&1; answer $? "" ;;
    fsck)
      git fsck --full --strict --no-dangling --no-progress >$said 2>&1
      answer $? "" ;;
    status) # the files against the last commit
      { git update-index -q --really-refresh; git status --porcelain; } >$said 2>&1
      [ ! -s $said ]; answer $? "" ;;
    history)
      git rev-list --reverse HEAD >$said.list 2>$said
      answer $? "$(tr '\n' ' ' <$said.list)" ;;
    *) echo "no such order: $order" >$said; answer 1 "" ;;
  esac
done
"""
