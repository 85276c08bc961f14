import { Cause, Effect, Exit, Option, Runtime } from '@livestore/utils/effect'

import { makeRunner } from '../clients/driver/runner.mjs'

export const { run, failureOf, failureOfRejection } = makeRunner({ Cause, Effect, Exit, Option, Runtime })
