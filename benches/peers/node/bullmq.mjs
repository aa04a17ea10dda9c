// BullMQ as one of the peers.

import { Queue, Worker } from 'bullmq'
import IORedis from 'ioredis'
import { main, versionOf } from './adapter.mjs'

const NAME = 'nothing'
const OPTIONS = { removeOnComplete: true }
const BULK = 1000

await main({
  version: versionOf('bullmq'),
  settings: { default: 'ioredis, removeOnComplete, bulk calls of 1 000' },
  connect: ({ url }) => {
    const connection = new IORedis(url, { maxRetriesPerRequest: null })
    const queue = new Queue(NAME, { connection })
    return {
      enqueue: (data) => queue.add(NAME, data, OPTIONS),
      enqueueAll: async (works) => {
        for (let at = 0; at < works.length; at += BULK) {
          const jobs = works.slice(at, at + BULK)
          await queue.addBulk(jobs.map((data) => ({ name: NAME, data, opts: OPTIONS })))
        }
      },
      start: async (concurrency, handler) => {
        const worker = new Worker(NAME, async (job) => handler(job.data), {
          connection: new IORedis(url, { maxRetriesPerRequest: null }),
          concurrency,
        })
        await worker.waitUntilReady()
        return () => worker.close()
      },
      close: () => queue.close(),
    }
  },
})
