// plainjob as one of the peers: SQLite, one job at a time.

import Database from 'better-sqlite3'
import { better, defineQueue, defineWorker } from 'plainjob'
import { main, versionOf } from './adapter.mjs'

const NAME = 'nothing'
const BULK = 1000
const logger = { error: console.error, warn: console.error, info() {}, debug() {} }

await main({
  version: versionOf('plainjob'),
  settings: {
    default: 'better-sqlite3, synchronous NORMAL (its default), bulk calls of 1 000, one at a time',
  },
  connect: ({ url }) => {
    const connection = better(new Database(url.replace(/^sqlite:(\/\/)?/, '')))
    const queue = defineQueue({ connection, logger })
    return {
      enqueue: async (data) => queue.add(NAME, data),
      enqueueAll: async (works) => {
        for (let at = 0; at < works.length; at += BULK) {
          queue.addMany(NAME, works.slice(at, at + BULK))
        }
      },
      start: async (_, handler) => {
        // Its worker never leaves the turn of the event loop while there is work.
        let runs = 0
        const run = async (job) => {
          handler(JSON.parse(job.data))
          if (++runs % 500 === 0) await new Promise(setImmediate)
        }
        const worker = defineWorker(NAME, run, { queue, logger })
        const ended = worker.start()
        return async () => {
          await worker.stop()
          await ended
        }
      },
      close: () => queue.close(),
    }
  },
})
