// A learner in JavaScript, written from docs/wire.md: a linear model, trained by gradient descent on the data of a file.
//
//   node learner.mjs ADDRESS LEARNER_ID DATA.json
//
// The file has x (rows of numbers), y, learning_rate and steps; "misbehave": "digest" or "twice" shows what the
// controller says to an update that is damaged, or sent once more. What happens is printed, a line of JSON each. For
// brevity it ends when its connection breaks, where the page says how to go on.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
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
  'grpc.max_receive_message_length': 2 ** 22 + 1024
})
const say = (what, facts) => process.stdout.write(JSON.stringify({ what, ...facts }) + '\n')
const ask = (method, request) =>
  new Promise((resolve, reject) => client[method](request, (error, reply) => (error ? reject(error) : resolve(reply))))

// --- models ----------------------------------------------------------------------------------------------------------

async function fetchModel (token, version) {
  const hash = (await createXXHash128()).init()
  let header, buffer, received = 0, digest
  for await (const { frames } of client.FetchModel({ token, model_version: version })) {
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
  const call = client.TrainDone()
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

const { token, heartbeat_secs: heartbeatSecs, lease_secs: leaseSecs } =
  await ask('JoinFederation', { learner_id: learnerId })
const tasks = client.Tasks()
const fromController = tasks[Symbol.asyncIterator]()
let model // the latest that was fetched

async function modelOf (version) {
  if (model?.header.model_version !== version) model = await fetchModel(token, version)
  return { header: model.header, buffer: model.buffer.slice() }
}

async function push (offer, manifest, version, buffer) {
  const metadata = { num_training_examples: data.x.length }
  const metrics = { loss: loss(buffer) }
  const header = { task_id: offer.task_id, token, model_version: version, manifest, metrics, metadata }
  for (let time = 0; time < (data.misbehave === 'twice' ? 2 : 1); time++) say('answer', await trainDone(header, buffer))
}

async function work (offer) {
  if (offer.kind === 'get_weights') {
    const manifest = [['weights', 'float32', [size], 0], ['bias', 'float32', [], biasAt]]
    await push(offer, manifest, 0, new Uint8Array(biasAt + 4))
  } else {
    const { header, buffer } = await modelOf(offer.model_version)
    if (offer.kind === 'train') {
      train(buffer)
      await push(offer, header.manifest, header.model_version, buffer)
    } else tasks.write({ evaluated: { task_id: offer.task_id, metrics: { loss: loss(buffer) } } })
  }
}

tasks.write({ hello: { token, held: [] } })
const heart = setInterval(() => tasks.write({ heartbeat: {} }), 1000 * heartbeatSecs)
const silence = setTimeout(() => tasks.destroy(new Error('the controller is silent')), 1000 * leaseSecs)
let farewell
let working = Promise.resolve() // tasks are done one after another
while (farewell === undefined) {
  const { value: message, done } = await fromController.next()
  if (done) throw new Error('the controller ended the connection')
  silence.refresh()
  say(message.message, message[message.message])
  if (message.task) {
    tasks.write({ accept: { task_id: message.task.task_id } })
    working = working.then(() => work(message.task)).catch(error => tasks.write({
      failed: { task_id: message.task.task_id, error_type: error.name, message: error.message }
    }))
  }
  farewell = message.farewell ?? undefined
}
await working
if (farewell._model_version) say('final', { loss: loss((await modelOf(farewell.model_version)).buffer) })
clearInterval(heart)
clearTimeout(silence)
await ask('LeaveFederation', { token })
while (!(await fromController.next()).done); // the controller ends the stream
client.close()
