import { Cause, Effect, Exit, Option, Runtime } from '@livestore/utils/effect'

import { makeRunner } from './runner.mjs'

export const { run, failureOf, failureOfRejection } = makeRunner({ Cause, Effect, Exit, Option, Runtime })
