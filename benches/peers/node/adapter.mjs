// What the Node adapters have in common: the command line that the driver speaks, and the
// measuring that happens inside a peer's process. The README has the protocol.
//
// A peer is { version, settings, connect({ url, variant }) } where connect answers with
// { enqueue(work), enqueueAll?(works), start(concurrency, handler), close() } and start with an
// async function that stops the worker.

import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'

const TEXT_BYTES = 92
const DIGITS = 8
const PATIENCE_MS = 25_000
const REPORT_EVERY_MS = 20

/** 100 bytes of JSON, with the job's number in front. */
const work = (index) => ({ d: String(index).padStart(DIGITS, '0').padEnd(TEXT_BYTES, 'x') })

const nowUs = () => Math.round((performance.timeOrigin + performance.now()) * 1000)

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`)

/** The installed version; package.json is not always exported, so it is looked for as a file. */
export function versionOf(name) {
  let folder = dirname(createRequire(import.meta.url).resolve(name))
  for (;;) {
    try {
      const found = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
      if (found.name === name) return found.version
    } catch (error) {
      if (error.code !== 'ENOENT') throw error
    }
    folder = dirname(folder)
  }
}

class Tally {
  constructor(jobs) {
    this.runs = new Uint8Array(jobs)
    this.total = 0
    this.firstUs = Number.MAX_SAFE_INTEGER
    this.lastUs = 0
    this.changed = () => {}
  }

  ran(data) {
    const now = nowUs()
    const index = Number(data.d.slice(0, DIGITS))
    if (!(index < this.runs.length)) throw new Error('a job that nobody enqueued')
    this.runs[index] += 1
    if (this.total === 0) this.firstUs = now
    this.lastUs = now
    this.total += 1
    this.changed()
  }
}

async function enqueue(peer, { jobs, mode, callers }) {
  const works = Array.from({ length: jobs }, (_, index) => work(index))
  const started = performance.now()
  if (mode === 'bulk') {
    await peer.enqueueAll(works)
  } else {
    let next = 0
    const caller = async () => {
      while (next < works.length) await peer.enqueue(works[next++])
    }
    await Promise.all(Array.from({ length: mode === 'many' ? callers : 1 }, caller))
  }
  say({ jobs, seconds: (performance.now() - started) / 1000 })
}

async function runWorker(peer, { jobs, concurrency, tally: path }) {
  const tally = new Tally(jobs)
  const stop = await peer.start(concurrency, (data) => tally.ran(data))
  say({ ready: true })
  let reported = 0
  const report = setInterval(() => {
    if (tally.total !== reported) say({ done: (reported = tally.total) })
  }, REPORT_EVERY_MS)
  await new Promise((resolve) => process.stdin.resume().once('end', resolve))
  clearInterval(report)
  await stop()
  writeFileSync(path, tally.runs)
  say({ first_us: tally.firstUs, last_us: tally.lastUs, ended: true })
}

async function pickup(peer, { jobs, concurrency, gapMs, seconds }) {
  const tally = new Tally(jobs)
  const stop = await peer.start(concurrency, (data) => tally.ran(data))
  await sleep(1000)
  const latencies = []
  let missing = 0
  const until = performance.now() + seconds * 1000
  for (let index = 0; index < jobs; index++) {
    await sleep(gapMs)
    if (performance.now() > until) break
    const given = new AbortController()
    const started = new Promise((resolve) => {
      tally.changed = resolve
    })
    const enqueuedUs = nowUs()
    await peer.enqueue(work(index))
    const late = sleep(PATIENCE_MS, 'late', { signal: given.signal }).catch(() => 'late')
    const picked = (await Promise.race([started, late])) !== 'late'
    given.abort()
    if (!picked) {
      missing += 1
      break
    }
    latencies.push(tally.lastUs - enqueuedUs)
  }
  await stop()
  say({ latencies_us: latencies, missing })
}

export async function main({ version, settings, connect }) {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: {
      url: { type: 'string' },
      variant: { type: 'string', default: 'default' },
      jobs: { type: 'string' },
      mode: { type: 'string' },
      callers: { type: 'string', default: '64' },
      concurrency: { type: 'string' },
      tally: { type: 'string' },
      'gap-ms': { type: 'string', default: '20' },
      seconds: { type: 'string', default: '60' },
    },
  })
  const [command] = positionals
  if (command === 'about') return say({ version, settings })
  const options = {
    ...values,
    jobs: Number(values.jobs),
    callers: Number(values.callers),
    concurrency: Number(values.concurrency),
    gapMs: Number(values['gap-ms']),
    seconds: Number(values.seconds),
  }
  const commands = { enqueue, work: runWorker, pickup }
  const peer = await connect(options)
  await commands[command](peer, options)
  await peer.close()
  // Some clients keep timers that would hold the process for seconds.
  process.exit(0)
}
