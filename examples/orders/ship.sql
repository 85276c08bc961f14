-- Ships all placed orders: commits an event for each, which the clients of its store get like any other event.
-- If it runs twice at once, an order may get two events. The second one changes nothing.
select store_id, order_id, livestore.commit(store_id, 'orderShipped', json_build_object('id', order_id)) as seq_num
from shop.orders
where status = 'placed'
order by store_id, placed_at;
