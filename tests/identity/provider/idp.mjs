// A real OpenID provider on loopback for tests. Usage: node idp.mjs '{"https://resource/": "scope another"}' '["opaque"]'
// Tokens of the resources in the second list are opaque. Client `client` is public, `robot` and `limen` have secrets; so has
// `gateway`, which signs people in at the address of the third argument and has a secret.
// Prints {"issuer": ...} when it listens. Signing in is one form post; POST /test/rotate adds a key, /test/retire drops
// the older ones.
import crypto from 'node:crypto'
import http from 'node:http'
import { errors, Provider } from 'oidc-provider'

const resources = JSON.parse(process.argv[2])
const opaque = new Set(JSON.parse(process.argv[3] ?? '[]'))
const callbacks = process.argv[4] ? [process.argv[4]] : []
const records = new Map()
let keys = []
let generation = 0
let callback

class Memory {
  constructor(model) { this.model = model }
  key(id) { return `${this.model}:${id}` }
  async upsert(id, payload) {
    if (payload.uid) records.set(`uid:${this.model}:${payload.uid}`, id)
    records.set(this.key(id), payload)
  }
  async find(id) { return records.get(this.key(id)) }
  async findByUid(uid) { return this.find(records.get(`uid:${this.model}:${uid}`)) }
  async findByUserCode() { return undefined }
  async consume(id) { records.get(this.key(id)).consumed = Math.floor(Date.now() / 1000) }
  async destroy(id) { records.delete(this.key(id)) }
  async revokeByGrantId(grant) {
    for (const [key, value] of records) if (value.grantId === grant) records.delete(key)
  }
}

function newKey() {
  generation += 1
  const { privateKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' })
  return { ...privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig', kid: `es-${generation}` }
}

function build(issuer) {
  const provider = new Provider(issuer, {
    adapter: Memory,
    jwks: { keys },
    cookies: { keys: ['only for tests'] },
    clients: [{
      client_id: 'client',
      token_endpoint_auth_method: 'none',
      redirect_uris: ['http://127.0.0.1:9/callback'],
      grant_types: ['authorization_code'],
      response_types: ['code'],
      id_token_signed_response_alg: 'ES256',
    }, {
      client_id: 'robot',
      client_secret: 'a secret of the robot',
      redirect_uris: [],
      response_types: [],
      grant_types: ['client_credentials'],
      id_token_signed_response_alg: 'ES256',
    }, {
      client_id: 'limen',
      client_secret: 'p&ss+word: 100%',
      redirect_uris: [],
      response_types: [],
      grant_types: [],
      id_token_signed_response_alg: 'ES256',
    }, ...callbacks.map((callback) => ({
      client_id: 'gateway',
      client_secret: 'p&ss+word: 100%',
      redirect_uris: [callback],
      grant_types: ['authorization_code'],
      response_types: ['code'],
      id_token_signed_response_alg: 'ES256',
    }))],
    pkce: { required: () => true },
    scopes: ['openid', ...new Set(Object.values(resources).flatMap((scope) => scope.split(' ')))],
    findAccount: async (_context, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
    extraTokenClaims: async () => ({ groups: ['staff'] }),
    ttl: { AccessToken: 300, IdToken: 300, Grant: 600, Interaction: 600, Session: 600 },
    features: {
      devInteractions: { enabled: true },
      dPoP: { enabled: true },
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: async () => undefined,
        useGrantedResource: async () => true,
        getResourceServerInfo: async (_context, resource) => {
          if (!Object.hasOwn(resources, resource)) throw new errors.InvalidTarget()
          const sign = { alg: 'ES256' }
          if (opaque.has(resource)) return { scope: resources[resource], audience: resource, accessTokenFormat: 'opaque' }
          return { scope: resources[resource], audience: resource, accessTokenFormat: 'jwt', jwt: { sign } }
        },
      },
    },
  })
  callback = provider.callback()
}

const server = http.createServer((request, response) => {
  if (request.method !== 'POST' || !request.url.startsWith('/test/')) return callback(request, response)
  if (request.url === '/test/rotate') keys = [newKey(), ...keys]
  else keys = keys.slice(0, 1)
  build(issuer())
  response.end(JSON.stringify(keys.map((key) => key.kid)))
})
const issuer = () => `http://127.0.0.1:${server.address().port}`
process.stdin.resume().on('end', () => process.exit(0)) // the test that started us is gone
server.listen(0, '127.0.0.1', () => {
  keys = [newKey()]
  build(issuer())
  console.log(JSON.stringify({ issuer: issuer() }))
})
