// Draws random numbers at the start and for each SIGUSR2: SIGUSR1 is node's own.
const crypto = require('crypto');
function draw() {
  console.log(`crypto.randomBytes=${crypto.randomBytes(8).toString('hex')} crypto.randomUUID=${crypto.randomUUID()} Math.random=${Math.random()}`);
}
process.on('SIGUSR2', draw);
draw();
setInterval(() => {}, 1 << 30);
