// An app whose heap grows, shrinks, is collected and compiled without a pause,
// and that checks all that it reads of it. It answers a line on port 7000 with
// "ok STEPS", or what was wrong. Started with --expose-gc.
'use strict';

const crypto = require('crypto');
const net = require('net');
const { Worker, isMainThread, parentPort } = require('worker_threads');

let steps = 0;
let wrong = null;

function say(text) {
  if (wrong === null) wrong = text;
}

let state = 1;

function chance(n) {
  state = (Math.imul(state, 1103515245) + 12345) >>> 0;
  return (state >>> 8) % n;
}

const sum = (data) => crypto.createHash('md5').update(data).digest('hex');
const zero = Buffer.alloc(1 << 20);
const buffers = [];
const objects = new Map();
const functions = [];

// A WebAssembly memory is a reservation of some GiB that is opened bit by bit.
let wasm = null;
let wasmPages = 0;

function growWasm() {
  if (wasm === null || wasmPages > 200) {
    wasm = new WebAssembly.Memory({ initial: 1, maximum: 1000 });
    wasmPages = 1;
    new Uint32Array(wasm.buffer)[5] = 77;
  }
  wasm.grow(8);
  const fresh = new Uint8Array(wasm.buffer, wasmPages * 65536, 8 * 65536);
  if (!zero.subarray(0, fresh.length).equals(fresh)) say('new WebAssembly memory is not zero');
  fresh.fill(7);
  wasmPages += 8;
  const all = new Uint8Array(wasm.buffer);
  if (new Uint32Array(wasm.buffer)[5] !== 77 || all[65536] !== 7 || all[wasmPages * 65536 - 1] !== 7) say('WebAssembly memory is wrong');
}

function step() {
  const size = chance(1 << (1 + chance(18)));
  const data = Buffer.alloc(size);
  if (!zero.subarray(0, size).equals(data)) say(`a new buffer of ${size} is not zero`);
  crypto.randomFillSync(data, 0, size >> 1);
  buffers.push([data, sum(data)]);
  const [old, want] = buffers[chance(buffers.length)];
  if (sum(old) !== want) say(`a buffer of ${old.length} is wrong`);
  if (buffers.length > 150) buffers.splice(0, chance(150));

  const key = `key ${chance(3000)}`;
  const object = objects.get(key);
  if (object && (object.text !== key.repeat(5) || object.list[9] !== 9.5)) say(`${key} is wrong`);
  objects.set(key, { text: key.repeat(5), list: Array.from({ length: 20 }, (_, i) => i + 0.5), self: object ? object.text : null });
  if (chance(1000) === 0) objects.clear();

  // Code that becomes hot, and code that is thrown away.
  const n = chance(1000);
  functions.push([n, new Function('x', `let s = ${n}; for (let i = 0; i < x; i++) s = (s * 31 + i) | 0; return s;`)]);
  const [m, f] = functions[chance(functions.length)];
  let s = m;
  for (let i = 0; i < 2000; i++) s = (s * 31 + i) | 0;
  if (f(2000) !== s) say(`a function of ${m} is wrong`);
  if (functions.length > 100) functions.splice(0, 50);

  growWasm();
  if (chance(300) === 0) global.gc();
  steps++;
}

function work() {
  for (let i = 0; i < 10 && wrong === null; i++) step();
  if (!isMainThread) parentPort.postMessage({ steps, wrong });
  if (wrong === null) setImmediate(work);
}

if (isMainThread) {
  let others = 0;
  const worker = new Worker(__filename);
  worker.on('message', (m) => {
    others = m.steps;
    if (m.wrong !== null) say(`in a worker: ${m.wrong}`);
  });
  worker.on('error', (e) => say(`a worker ended: ${e}`));
  net.createServer((conn) => {
    conn.on('error', () => {});
    conn.on('data', () => conn.write(wrong === null ? `ok ${Math.min(steps, others)}\n` : `error: ${wrong}\n`));
  }).listen(7000);
} else {
  state = 2;
}
work();
