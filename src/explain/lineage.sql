-- From triplets back to what made them; the tables as views: everpair views --duckdb
WITH image AS (
    SELECT i.image_id, {
        'image_id': i.image_id, 'content_id': i.content_id, 'source': i.source, 'uri': i.uri,
        'licence': i.licence, 'caption': i.caption, 'topic': i.topic, 'partition': i.partition,
        'offset': i.offset, 'ingested_at': i.ingested_at, 'epoch': i.epoch, 'width': c.width,
        'height': c.height, 'format': c.format, 'phash': c.phash, 'measures': c.measures
    } AS image
    FROM images i LEFT JOIN contents c USING (content_id)
), named AS (
    SELECT triplet_id, unnest(hard_negatives) AS image_id,
        generate_subscripts(hard_negatives, 1) AS place
    FROM triplets
), negatives AS (
    SELECT triplet_id, list(image ORDER BY place) AS images
    FROM named LEFT JOIN image USING (image_id) GROUP BY triplet_id
), turned_away AS (
    SELECT request_id,
        list({'reason': reason, 'detail': detail, 'epoch': epoch} ORDER BY epoch, reason, detail) AS rejects
    FROM rejects WHERE request_id IS NOT NULL GROUP BY request_id
), history AS (
    SELECT triplet_id, list({'epoch': epoch, 'op': op, 'reason': reason} ORDER BY epoch, op) AS changes
    FROM changes GROUP BY triplet_id
)
SELECT t.triplet_id, t.epoch, q.image AS query, g.image AS target, n.images AS hard_negatives,
    CASE WHEN p.query_id IS NOT NULL THEN
        {'channels': p.channels, 'scores': p.scores, 'ranks': p.ranks, 'epoch': p.epoch}
    END AS pair,
    {'request_id': t.request_id, 'task': a.task, 'model': t.model,
        'prompt_version': t.prompt_version, 'outcome': a.outcome, 'description': t.description,
        'prompt_tokens': a.prompt_tokens, 'completion_tokens': a.completion_tokens,
        'cost_usd': a.cost_usd, 'created_at': a.created_at, 'epoch': a.epoch} AS answer,
    list_transform(range(1, len(t.instructions) + 1), lambda i: {
        'instruction': t.instructions[i], 'label': t.audits[i].label,
        'rank_text': t.audits[i].rank_text, 'rank_image': t.audits[i].rank_image,
        'rank_both': t.audits[i].rank_both}) AS instructions,
    list_filter(a.instructions, lambda i: NOT list_contains(t.instructions, i)) AS left_out,
    coalesce(r.rejects, []) AS rejects, h.changes
FROM triplets t
LEFT JOIN image q ON q.image_id = t.query_id
LEFT JOIN image g ON g.image_id = t.target_id
LEFT JOIN negatives n USING (triplet_id)
LEFT JOIN pairs p ON p.query_id = t.query_id AND p.target_id = t.target_id
LEFT JOIN (FROM annotations WHERE outcome <> 'withdrawn') a USING (request_id)
LEFT JOIN turned_away r USING (request_id)
LEFT JOIN history h USING (triplet_id)
