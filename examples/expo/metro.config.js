const { getDefaultConfig } = require('expo/metro-config')

const config = getDefaultConfig(__dirname)

// LiveStore's nanoid has a build for Node and one for browsers. Metro would take that for Node, whose `node:crypto` is not there.
config.resolver.resolveRequest = (context, name, platform) =>
  context.resolveRequest(name === 'nanoid' ? { ...context, unstable_conditionNames: ['browser'] } : context, name, platform)

module.exports = config
