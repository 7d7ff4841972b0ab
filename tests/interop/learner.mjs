// A learner in JavaScript, written from docs/wire.md: a linear model, trained by gradient descent on the data of a file.
//
//   node learner.mjs ADDRESS LEARNER_ID DATA.json
//
// The file has x (rows of numbers), y, learning_rate and steps; "misbehave": "digest" or "twice" shows what the
// controller says to an update that is damaged, or sent once more. What happens is printed, a line of JSON each.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import grpc from '@grpc/grpc-js'
import protoLoader from '@grpc/proto-loader'
import { decode, encode } from '@msgpack/msgpack'
import { createXXHash128 } from 'hash-wasm'

const [address, learnerId, file] = process.argv.slice(2)
const data = JSON.parse(readFileSync(file, 'utf8'))
const proto = fileURLToPath(new URL('../../protos/metisfl_async/transport/_proto/metisfl.proto', import.meta.url))
const loaded = protoLoader.loadSync(proto, { keepCase: true, longs: Number, defaults: true, oneofs: true })
const { Controller } = grpc.loadPackageDefinition(loaded).metisfl_async.v1
const client = new Controller(address, grpc.credentials.createInsecure(), {
  'grpc.max_receive_message_length': 2 ** 22 + 1024,
  'grpc.max_reconnect_backoff_ms': 1000
})
const say = (what, facts) => process.stdout.write(JSON.stringify({ what, ...facts }) + '\n')
const ask = (method, request) =>
  new Promise((resolve, reject) => client[method](request, (error, reply) => (error ? reject(error) : resolve(reply))))

async function insist (call) { // again while it fails for reasons that pass, with growing pauses
  const { INVALID_ARGUMENT, FAILED_PRECONDITION, UNIMPLEMENTED, RESOURCE_EXHAUSTED } = grpc.status
  const stays = ({ code, details }) =>
    [INVALID_ARGUMENT, FAILED_PRECONDITION].includes(code)
      ? !/"(UnknownLearner|Superseded|Truncated)"/.test(details)
      : [undefined, UNIMPLEMENTED, RESOURCE_EXHAUSTED].includes(code)
  for (let pause = 100; ; pause = Math.min(2 * pause, 10_000)) {
    try {
      return await call()
    } catch (error) {
      if (stays(error)) throw error
      await sleep(pause * Math.random())
    }
  }
}

// --- models ----------------------------------------------------------------------------------------------------------

async function fetchModel (federationId, version) {
  const hash = (await createXXHash128()).init()
  let header, buffer, received = 0, digest
  const asked = { token: joined.token, federation_id: federationId, model_version: version }
  for await (const { frames } of client.FetchModel(asked)) {
    silence.refresh() // what else the controller says may wait behind the model
    for (const frame of frames) {
      const content = decode(frame)
      if (header === undefined) {
        header = content
        buffer = new Uint8Array(header.size_bytes)
        hash.update(frame)
      } else if (Array.isArray(content)) {
        const [offset, payload] = content
        if (offset !== received || offset + payload.length > buffer.length) throw new Error(`a frame at ${offset}`)
        buffer.set(payload, offset)
        hash.update(payload)
        received += payload.length
      } else digest = Buffer.from(content.digest).toString('hex')
    }
  }
  if (received !== buffer?.length || digest !== hash.digest('hex')) throw new Error('the model is cut off or damaged')
  return { header, buffer }
}

async function trainDone (header, buffer) {
  const hash = (await createXXHash128()).init()
  const metadata = new grpc.Metadata()
  metadata.set('metisfl-token', joined.token) // that of the time
  const call = client.TrainDone(metadata)
  const replies = call[Symbol.asyncIterator]()
  const next = async () => (await replies.next()).value ?? { state: 'none', reason: 'no answer' }
  const packed = encode({ kind: 'update', codec: 'raw', size_bytes: buffer.length, ...header })
  hash.update(packed)
  call.write({ frames: [packed] })
  const first = await next()
  if (first.state === 'send') {
    const outcome = next()
    const chunk = 2 ** 20
    for (let offset = 0; offset < buffer.length; offset += chunk) {
      const payload = buffer.subarray(offset, offset + chunk)
      hash.update(payload)
      if (!call.write({ frames: [encode([offset, payload])] })) await Promise.race([once(call, 'drain'), outcome])
    }
    const digest = hash.digest('binary')
    if (data.misbehave === 'digest') digest[0] ^= 1
    call.end({ frames: [encode({ digest })] })
    return outcome
  }
  call.end()
  return first
}

// --- the learner's own business --------------------------------------------------------------------------------------

const size = data.x[0].length // the model: float32 weights of shape [size], and a bias of shape []
const biasAt = Math.ceil((size * 4) / 64) * 64
const views = buffer => [new DataView(buffer.buffer, 0, size * 4), new DataView(buffer.buffer, biasAt, 4)]
const numbers = view => Float64Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true))

function errors (weights, bias) {
  return data.x.map((row, i) => row.reduce((sum, value, j) => sum + value * weights[j], bias) - data.y[i])
}

function train (buffer) {
  const [weightsView, biasView] = views(buffer)
  const weights = numbers(weightsView)
  let [bias] = numbers(biasView)
  for (let step = 0; step < data.steps; step++) {
    const error = errors(weights, bias)
    const rate = (2 * data.learning_rate) / data.x.length
    data.x.forEach((row, i) => row.forEach((value, j) => { weights[j] -= rate * error[i] * value }))
    bias -= rate * error.reduce((sum, e) => sum + e, 0)
  }
  weights.forEach((value, j) => weightsView.setFloat32(4 * j, value, true))
  biasView.setFloat32(0, bias, true)
}

function loss (buffer) {
  const [weights, bias] = views(buffer).map(numbers)
  return errors(weights, bias[0]).reduce((sum, e) => sum + e * e, 0) / data.x.length
}

// --- the protocol ----------------------------------------------------------------------------------------------------

const PROTOCOL = 3
const held = new Map() // tasks that are not settled, by id: the offer, and what came of it; updates until they count
let joined = { token: '' }
let federation = '' // which one all that is held belongs to
let tasks, silence, model, farewell
let working = Promise.resolve() // tasks are done one after another

async function modelOf (federationId, version) {
  if (model?.federationId !== federationId || model.header.model_version !== version) {
    model = { federationId, ...await insist(() => fetchModel(federationId, version)) }
  }
  return { header: model.header, buffer: model.buffer.slice() }
}

async function push (taskId) {
  const { offer, update } = held.get(taskId)
  const { buffer, ...facts } = update
  for (let left = data.misbehave === 'twice' ? 2 : 1; left > 0;) {
    const header = { ...facts, task_id: taskId, federation_id: offer.federation_id }
    const answer = await insist(() => trainDone(header, buffer))
    say('answer', answer)
    if (answer.state !== 'damaged') left--
    if (answer.state === 'folded') offer.isFolded = true // and kept until it counts, or "upload" asks for it again
    else if (answer.state !== 'damaged') held.delete(taskId)
  }
}

async function trained (offer, manifest, version, buffer) {
  const [metadata, metrics] = [{ num_training_examples: data.x.length }, { loss: loss(buffer) }]
  held.get(offer.task_id).update = { model_version: version, manifest, metrics, metadata, buffer }
  await push(offer.task_id)
}

async function work (offer) {
  if (offer.kind === 'get_weights') {
    const manifest = [['weights', 'float32', [size], 0], ['bias', 'float32', [], biasAt]]
    return trained(offer, manifest, 0, new Uint8Array(biasAt + 4))
  }
  const { header, buffer } = await modelOf(offer.federation_id, offer.model_version)
  if (!held.has(offer.task_id)) return // it was withdrawn meanwhile
  if (offer.kind === 'train') {
    train(buffer)
    await trained(offer, header.manifest, header.model_version, buffer)
  } else if (offer.kind === 'evaluate') {
    report(offer.task_id, { evaluated: { task_id: offer.task_id, metrics: { loss: loss(buffer) } } })
  } else throw new Error(`what is ${offer.kind}?`)
}

function report (taskId, outcome) {
  if (held.has(taskId)) held.get(taskId).outcome = outcome // until it is settled
  tasks.write(outcome)
}

function later (taskId, job) {
  working = working.then(() => held.has(taskId) && job()).catch(error =>
    report(taskId, { failed: { task_id: taskId, error_type: error.name, message: error.message } }))
}

function enter (federationId) {
  if (federationId && federationId !== federation) held.clear()
  federation = federationId || federation
}

function hear ({ message: kind, counted, ...message }) {
  if (counted.length) say('counted', { task_ids: counted })
  for (const taskId of counted) held.delete(taskId)
  if (kind) say(kind, message[kind])
  const { task_id: taskId } = message[kind] ?? {}
  if (kind === 'welcome') {
    for (const { task_id: id, verdict } of message.welcome.verdicts) {
      if (['counted', 'discard'].includes(verdict)) held.delete(id)
      else if (verdict === 'upload' && held.get(id)?.offer.isFolded) later(id, () => push(id)) // else it is on its way
    }
    for (const { outcome } of held.values()) if (outcome) tasks.write(outcome)
  } else if (kind === 'task') {
    enter(message.task.federation_id)
    tasks.write({ accept: { task_id: taskId } })
    if (held.has(taskId)) return
    held.set(taskId, { offer: message.task })
    later(taskId, () => work(message.task))
  } else if (kind === 'settled' || kind === 'withdrawn') held.delete(taskId)
  else if (kind === 'farewell' && message.farewell.then !== 'return') {
    held.clear()
    if (message.farewell.then !== 'stay') leave(farewell = message.farewell)
  }
}

async function leave ({ _model_version: hasModel, federation_id: federationId, model_version: version }) {
  await working
  if (hasModel) say('final', { loss: loss((await modelOf(federationId, version)).buffer) })
  await ask('LeaveFederation', { token: joined.token }) // the controller ends the stream
}

async function connect () {
  joined = await insist(() => ask('JoinFederation', { learner_id: learnerId, token: joined.token, protocol: PROTOCOL }))
  if (joined.protocol !== PROTOCOL) throw new Error(`the controller speaks version ${joined.protocol}`)
  enter(joined.federation_id)
  tasks = client.Tasks()
  const still = Array.from(held.values(), ({ offer, update, outcome }) => ({ ...offer, is_done: !!(update ?? outcome) }))
  tasks.write({ hello: { token: joined.token, held: still } })
  const heart = setInterval(() => tasks.write({ heartbeat: {} }), 1000 * joined.heartbeat_secs)
  const patience = Math.max(joined.lease_secs / 2, 1.5 * joined.heartbeat_secs)
  silence = setTimeout(() => tasks.cancel(), 1000 * patience)
  try {
    for await (const message of tasks) {
      silence.refresh()
      hear(message)
    }
  } catch (error) {
    say('lost', { reason: error.message })
  } finally {
    clearInterval(heart)
    clearTimeout(silence)
  }
}

while (!farewell) await connect()
client.close()
