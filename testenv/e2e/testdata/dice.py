# Draws random numbers at the start and for each SIGUSR1.
import os, random, secrets, signal, ssl, uuid


def forked():
    r, w = os.pipe()
    if os.fork() == 0:
        os.write(w, ssl.RAND_bytes(8).hex().encode())
        os._exit(0)
    os.wait()
    return os.read(r, 100).decode()


def draw(*_):
    print(f"os.urandom={os.urandom(8).hex()} secrets={secrets.token_hex(8)} uuid.uuid4={uuid.uuid4()}",
          f"random={random.random()} ssl.RAND_bytes={ssl.RAND_bytes(8).hex()}", f"ssl-in-a-child={forked()}", end=" ")
    ssl.RAND_add(os.urandom(32), 32)
    print(f"after-RAND_add={ssl.RAND_bytes(8).hex()}", flush=True)


signal.signal(signal.SIGUSR1, draw)
draw()
while True:
    signal.pause()
