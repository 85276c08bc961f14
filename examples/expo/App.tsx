import { nanoid, queryDb } from '@livestore/livestore'
import { StoreRegistry, StoreRegistryProvider } from '@livestore/react'
import { Suspense, useState } from 'react'
import { FlatList, Pressable, StyleSheet, Text, TextInput, View } from 'react-native'

import { events, tables } from './schema.ts'
import { useTodoStore } from './store.ts'

const storeRegistry = new StoreRegistry()
const todos$ = queryDb(tables.todos.orderBy('id', 'asc'), { label: 'todos' })

export const App = () => (
  <StoreRegistryProvider storeRegistry={storeRegistry}>
    <View style={styles.page}>
      <Suspense fallback={<Text>Loading…</Text>}>
        <Todos />
      </Suspense>
    </View>
  </StoreRegistryProvider>
)

const Todos = () => {
  const store = useTodoStore()
  const todos = store.useQuery(todos$)
  const [text, setText] = useState('')

  const add = () => {
    // The time comes first: the list is in the order of the ids.
    if (text.trim() !== '') store.commit(events.todoCreated({ id: `${Date.now()}-${nanoid()}`, text: text.trim() }))
    setText('')
  }

  return (
    <>
      <TextInput
        style={styles.input}
        placeholder="What needs to be done?"
        value={text}
        onChangeText={setText}
        onSubmitEditing={add}
      />
      <FlatList
        data={todos}
        keyExtractor={({ id }) => id}
        renderItem={({ item: { id, text, completed } }) => (
          <Pressable onPress={() => store.commit(events.todoCompleted({ id }))}>
            <Text style={styles.todo}>{completed ? `✓ ${text}` : text}</Text>
          </Pressable>
        )}
      />
    </>
  )
}

const styles = StyleSheet.create({
  page: { flex: 1, padding: 24, paddingTop: 72 },
  input: { borderWidth: 1, borderColor: '#ccc', borderRadius: 8, padding: 12, marginBottom: 16 },
  todo: { paddingVertical: 8, fontSize: 16 },
})
