package script

const ptyStart = `
import pty, select
def until(text):
    got = b""
    while text not in got:
        if not select.select([master], [], [], 5)[0]:
            must("the terminal", got, text)
        got += os.read(master, 4096)
    return got
`

// PTYSession is a program on its controlling terminal, with data on the way to
// it, which the terminal's keys reach.
const PTYSession = ptyStart + `
program = """
import os, select, signal
signal.signal(signal.SIGINT, lambda *a: os.write(1, b"interrupted"))
# A signal right before a blocking read would be handled only after it.
woken, wake = os.pipe()
os.set_blocking(wake, False)
signal.set_wakeup_fd(wake)
print("started", flush=True)
while True:
    if woken in select.select([0, woken], [], [])[0]:
        os.read(woken, 100)
        continue
    line = os.read(0, 100).decode()
    if not line:
        break
    print("read", line.strip(), os.ttyname(0), os.tcgetpgrp(0) == os.getpgrp(), os.get_terminal_size().columns, flush=True)
"""
pid, master = pty.fork()
if pid == 0:
    os.execlp("python3", "python3", "-c", program)
import fcntl, termios
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
until(b"started")
ready()
os.write(master, b"hello\n")
must("the terminal's line", b"read hello /dev/pts/0 True 99" in until(b"99"), True)
os.write(master, b"\x03")
until(b"interrupted")
os.write(master, b"\x04")
must("the program's end", os.waitpid(pid, 0), (pid, 0))
ok()
`

// PTYShell is an interactive shell, which has /dev/tty open for its jobs.
const PTYShell = ptyStart + `
pid, master = pty.fork()
if pid == 0:
    os.execlp("sh", "sh", "-i")
os.write(master, b"x=kept; echo up$((1+1))\n")
until(b"up2")
ready()
os.write(master, b"echo $x $((6*7)); echo end$((3+4))\n")
must("the shell's variable", b"kept 42" in until(b"end7"), True)
os.write(master, b"exit\n")
must("the shell", os.waitpid(pid, 0)[0], pid)
ok()
`
