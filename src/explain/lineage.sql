-- From triplets back to what made them; the tables as views: everpair views --duckdb
-- Captions are those that came with messages; one that a model wrote stands in annotations (task caption).
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
), described AS (
    SELECT a.request_id, {
        'request_id': d.request_id, 'model': d.model, 'prompt_version': d.prompt_version,
        'outcome': d.outcome, 'prompt_tokens': d.prompt_tokens,
        'completion_tokens': d.completion_tokens, 'cost_usd': d.cost_usd,
        'shared_by': (SELECT count(DISTINCT s.query_content_id) FROM annotations s
            WHERE s.task = 'instruct' AND s.outcome <> 'withdrawn' AND s.model = a.model
                AND s.prompt_version = a.prompt_version
                AND least(s.query_content_id, s.target_content_id) = d.query_content_id
                AND greatest(s.query_content_id, s.target_content_id) = d.target_content_id)
    } AS describe
    FROM annotations a JOIN annotations d ON d.task = 'describe' AND d.outcome <> 'withdrawn'
        AND d.query_content_id = least(a.query_content_id, a.target_content_id)
        AND d.target_content_id = greatest(a.query_content_id, a.target_content_id)
        AND d.prompt_version = a.prompt_version // 1000 AND d.created_at <= a.created_at
        AND (d.model = a.model OR ends_with(a.model, '+' || d.model))
    WHERE a.task = 'instruct' AND a.outcome <> 'withdrawn'
    QUALIFY row_number() OVER (
        PARTITION BY a.request_id ORDER BY d.created_at DESC, d.request_id DESC) = 1
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
        'cost_usd': a.cost_usd, 'describe': d.describe,
        'cost_of_pair_usd': CASE
            WHEN a.cost_usd IS NULL THEN d.describe.cost_usd / d.describe.shared_by
            ELSE a.cost_usd + coalesce(d.describe.cost_usd / d.describe.shared_by, 0) END,
        'created_at': a.created_at, 'epoch': a.epoch} AS answer,
    list_transform(range(1, len(t.instructions) + 1), lambda i: {
        'instruction': t.instructions[i], 'label': t.audits[i].label,
        'rank_text': t.audits[i].rank_text, 'rank_image': t.audits[i].rank_image,
        'rank_both': t.audits[i].rank_both, 'verdict': to_json(t.audits[i])->>'verdict'}) AS instructions,
    list_filter(a.instructions, lambda i: NOT list_contains(t.instructions, i)) AS left_out,
    coalesce(r.rejects, []) AS rejects, h.changes
FROM triplets t
LEFT JOIN image q ON q.image_id = t.query_id
LEFT JOIN image g ON g.image_id = t.target_id
LEFT JOIN negatives n USING (triplet_id)
LEFT JOIN pairs p ON p.query_id = t.query_id AND p.target_id = t.target_id
LEFT JOIN (FROM annotations WHERE outcome <> 'withdrawn') a USING (request_id)
LEFT JOIN described d USING (request_id)
LEFT JOIN turned_away r USING (request_id)
LEFT JOIN history h USING (triplet_id)
