// bee-queue as one of the peers.

import BeeQueue from 'bee-queue'
import { main, versionOf } from './adapter.mjs'

const NAME = 'nothing'
const BULK = 1000

await main({
  version: versionOf('bee-queue'),
  settings: { default: 'removeOnSuccess, bulk calls (saveAll) of 1 000' },
  connect: async ({ url }) => {
    const options = { redis: { url }, removeOnSuccess: true }
    const queue = new BeeQueue(NAME, { ...options, isWorker: false, getEvents: false })
    await queue.ready()
    return {
      enqueue: (data) => queue.createJob(data).save(),
      enqueueAll: async (works) => {
        for (let at = 0; at < works.length; at += BULK) {
          const jobs = works.slice(at, at + BULK).map((data) => queue.createJob(data))
          const errors = await queue.saveAll(jobs)
          if (errors.size > 0) throw [...errors.values()][0]
        }
      },
      start: async (concurrency, handler) => {
        const worker = new BeeQueue(NAME, options)
        await worker.ready()
        worker.process(concurrency, async (job) => handler(job.data))
        return () => worker.close(30_000)
      },
      close: () => queue.close(),
    }
  },
})
