// The authorization server of somebody else's MCP server, for tests: npm oidc-provider on loopback, where clients
// register themselves, refresh tokens rotate, and tokens live for a few seconds. Usage: node upstream_idp.mjs RESOURCE SCOPES SECONDS
// Prints {"issuer": ...} when it listens.
import crypto from 'node:crypto'
import http from 'node:http'
import { errors, Provider } from 'oidc-provider'

const [resource, scopes, seconds] = process.argv.slice(2)
const { privateKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' })
const key = { ...privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig', kid: 'only' }
let callback

const server = http.createServer((request, response) => callback(request, response))
process.stdin.resume().on('end', () => process.exit(0)) // the test that started us is gone
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`
  const provider = new Provider(issuer, {
    jwks: { keys: [key] },
    cookies: { keys: ['only for tests'] },
    pkce: { required: () => true },
    scopes: ['openid', 'offline_access', ...scopes.split(' ')],
    findAccount: async (_context, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
    rotateRefreshToken: true,
    ttl: { AccessToken: Number(seconds), Grant: 600, Interaction: 600, Session: 600, RefreshToken: 600 },
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    features: {
      devInteractions: { enabled: true },
      registration: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: async () => undefined,
        useGrantedResource: async () => false,
        getResourceServerInfo: async (_context, asked) => {
          if (asked !== resource) throw new errors.InvalidTarget()
          const jwt = { sign: { alg: 'ES256' } }
          return { scope: scopes, audience: resource, accessTokenFormat: 'jwt', accessTokenTTL: Number(seconds), jwt }
        },
      },
    },
  })
  callback = provider.callback()
  console.log(JSON.stringify({ issuer }))
})
