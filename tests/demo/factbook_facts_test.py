import pytest

from atlas_jax.demo import factbook_facts

FACTS = {fact.name: fact for fact in factbook_facts.FACTS}


def test_facts_are_distinct_and_their_questions_take_a_country():
    assert len(FACTS) == len(factbook_facts.FACTS) >= 21
    for fact in factbook_facts.FACTS:
        assert len(set(fact.questions)) == len(fact.questions) == 2
        for question in fact.questions:
            filled = question.format(country='the Bahamas', possessive="the Bahamas'")
            assert 'the Bahamas' in filled and filled[-1] in '?.'


@pytest.mark.parametrize('fact, text, answers', [
    ('capital', 'Vienna', ['Vienna']), ('capital', 'Washington, D.C.', ['Washington, D.C.']), ('capital', 'Suva (on Viti Levu)', ['Suva']),
    ('capital', 'Porto-Novo (constitutional capital); Cotonou (seat of government)', []), ('capital', 'no official capital', []),
    ('capital', 'Gitega (political capital), Bujumbura (commercial capital)', []),
    ('capital', 'Chisinau in Romanian (Kishinev in Russian)', []),
    ('government type', 'parliamentary republic; a Commonwealth realm', ['parliamentary republic']),
    ('government type', 'in transition', []),
    ('government type', 'presidential republic in name, although in fact a dictatorship', []),
    ('adjective', 'French', ['French']), ('adjective', 'Congolese or Congo', ['Congolese', 'Congo']), ('adjective', 'NA', []),
    ('adjective', 'Motswana (singular), Batswana (plural)', []), ('internet code', '.fr', ['.fr']), ('internet code', '.fr; .gf', []),
    ('anthem', '"Het Wilhelmus" (The William)', ['Het Wilhelmus', 'The William']), ('anthem', '“Patria Amada”', ['Patria Amada']),
    ('anthem', '"National Anthem of Mauritania"', []), ('anthem', 'the anthem has four names: "a" "b"', []),
    ('highest point', 'Mont Blanc 4,810', ['Mont Blanc']), ('highest point', 'Kinabalu (in the north) 4,095 m', ['Kinabalu']),
    ('highest point', 'Mount Alvernia on Cat Island 63 m', ['Mount Alvernia', 'Mount Alvernia on Cat Island']),
    ('highest point', 'unnamed elevation 63 m', []), ('lowest point', 'Dead Sea -431 m', ['Dead Sea']),
    ('lowest point', 'Norwegian/Greenland Seas 0 m', []), ('independence', '1 August 1960 (from France)', ['1 August 1960']),
    ('independence', '24 September 1973 (declared); 10 September 1974 (from Portugal)', []), ('independence', 'none', []),
    ('national holiday', 'Independence Day, 5 July (1962)', ['5 July']), ('national holiday', 'Bermuda Day, 24 May', ['24 May']),
    ('national holiday', 'Naadam (games) holiday, 11-15 July; Constitution Day, 26 November (1924)', []),
    ('currency', 'euros (EUR) per US dollar -', ['euros', 'euro']), ('currency', 'colones (CRC) per US dollar', ['colones', 'colon']),
    ('currency', 'the US dollar is used', []), ('currency', 'Tuvaluan dollars or Australian dollars (TVD) per US dollar', []),
    ('export partner', 'USA 40%, China 5%', ['USA', 'US', 'United States']), ('export partner', 'Brazil 15%, India 15%', []),
    ('export partner', 'n/a', []), ('language', 'French (official) 100%', ['French']), ('language', 'Thai 90.7% (official)', ['Thai']),
    ('language', 'Arabic (official), French (official)', []), ('language', 'Italian', []),
    ('religion', 'Muslim (official; Sunni (85%)) 96%, other 4%', ['Muslim']), ('religion', 'Christian 20%, Muslim 30%', []),
    ('religion', 'none 60%, Buddhist 20%', []), ('religion', 'Catholic, Muslim', []), ('coastline', '4,853 km', ['4,853 km']),
    ('coastline', '0 km (landlocked)', []), ('area', '643,801 sq km', ['643,801 sq km', '643,801']),
    ('median age', '42.7 years (2025 est.)', ['42.7 years', '42.7']), ('legislature', 'Diet (Landtag)', ['Diet', 'Landtag']),
    ('legislature', 'Legislative Council or LegCo', []), ('national symbol', 'a golden eagle, lion (bold)', ['golden eagle', 'lion']),
    ('national symbol', 'eagle; national colors: blue', ['eagle']), ('national symbol', 'six, five-pointed, white stars', [])])
def test_readers(fact, text, answers):
    assert list(FACTS[fact].read(text, text)) == answers


def test_a_ranking_counts_only_where_the_field_says_so():
    read = FACTS['top export'].read
    assert read('gold, fish (2023)', 'gold, fish (2023); note: top five export commodities based on value in dollars') == ['gold']
    assert read('gold, fish', 'gold, fish') == []
